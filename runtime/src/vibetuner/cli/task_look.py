"""The commands that look at enqueued tasks: ``list``, ``show``, ``why`` and ``stats``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["list_", "show", "stats", "why"]

NOTHING_MATCHED = 3

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the first 8 characters.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
StateNames = Annotated[
    list[str] | None,
    typer.Option("--state", help="Those in this state, e.g. failed; may be given again."),
]
Name = Annotated[str | None, typer.Option("--task", help="Those of the task of this name.")]
Since = Annotated[str | None, typer.Option("--since", help="Since: 30m, 2h, 3d, or a date (UTC).")]
Until = Annotated[
    str | None, typer.Option("--until", help="Until: 30m, 2h, 3d ago, or a date (UTC).")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at the most.")]
After = Annotated[str | None, typer.Option("--after", help="The `next` of an earlier page.")]


def list_(  # noqa: PLR0913, PLR0917 - options
    state: StateNames = None,
    task: Name = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List tasks: those that run, wait, are scheduled, and the newest that ended.

    Exit code 0 when there are some, 3 when nothing matches.
    """
    from vibetuner.cli.task_queue import check_task_name, parse_filters, run
    from vibetuner.cli.task_view import print_json_page, print_page
    from vibetuner.tasks.overview.listing import list_tasks

    filters = parse_filters(state or [], task, since, until)
    page = run(lambda queue: list_tasks(queue, filters, limit=limit, after=after))
    if task and not page.rows:  # one that is gone from the project may still have ended tasks
        check_task_name(task)
    (print_json_page if as_json else print_page)(page)
    if not page.rows:
        raise typer.Exit(NOTHING_MATCHED)


def show(task_id: Id, as_json: AsJson = False) -> None:
    """Show one task: its arguments, tries and result; what looks secret is masked.

    Exit code 3 when nothing is known of it.
    """
    from vibetuner.cli.task_queue import run
    from vibetuner.cli.task_view import print_detail, print_json_detail
    from vibetuner.tasks.overview.detail import find_task

    detail = run(find_task, of=task_id, with_project=True, with_letters=True)
    (print_json_detail if as_json else print_detail)(detail)


def why(task_id: Id, as_json: AsJson = False) -> None:
    """Say why a task isn't running, and what to do about it.

    Exit code 3 when nothing is known of it.
    """
    from vibetuner.cli.task_queue import run
    from vibetuner.cli.task_view import print_json_reasons, print_reasons
    from vibetuner.tasks.overview.why import explain

    row, reasons = run(explain, of=task_id, with_project=True, with_letters=True)
    (print_json_reasons if as_json else print_reasons)(row, reasons)


def stats(as_json: AsJson = False) -> None:
    """Show how many tasks there are, how long they wait and run, and who works."""
    from vibetuner.cli.task_queue import read_stats, run
    from vibetuner.cli.task_view import print_json_stats, print_stats

    found = run(read_stats, with_letters=True)
    (print_json_stats if as_json else print_stats)(found)
