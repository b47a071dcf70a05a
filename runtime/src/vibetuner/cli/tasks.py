"""``vibetuner tasks``: shows, aborts and enqueues tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vibetuner.tasks.inspect.queue import Queue

app = typer.Typer(help="Show, abort and enqueue tasks.", no_args_is_help=True)

NOTHING_MATCHED = 3

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the first 8 characters.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
StateNames = Annotated[
    list[str] | None,
    typer.Option("--state", help="Only tasks in this state, e.g. failed; may be repeated."),
]
Name = Annotated[str | None, typer.Option("--task", help="Only tasks of this name.")]
Since = Annotated[str | None, typer.Option("--since", help="Since: 30m, 2h, 3d, or a date (UTC).")]
Until = Annotated[
    str | None, typer.Option("--until", help="Until: 30m, 2h, 3d ago, or a date (UTC).")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The most tasks to show.")]
After = Annotated[
    str | None, typer.Option("--after", help="Start at the `next` of an earlier page.")
]


@app.command("list")
def list_(  # noqa: PLR0913, PLR0917 - options
    state: StateNames = None,
    task: Name = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List tasks: running, queued, scheduled, and the newest ended ones.

    Exit code 0 if there are any, 3 if nothing matches.
    """
    from vibetuner.cli.task_queue import check_task_name, parse_filters, print_page, run
    from vibetuner.tasks.inspect.listing import list_tasks

    filters = parse_filters(state or [], task, since, until)
    page = run(lambda queue: list_tasks(queue, filters, limit=limit, after=after))
    if task and not page.rows:  # a task that was removed from the project may have ended tasks
        check_task_name(task)
    print_page(page, as_json=as_json)
    if not page.rows:
        raise typer.Exit(NOTHING_MATCHED)


@app.command()
def show(task_id: Id, as_json: AsJson = False) -> None:
    """Show a task: its arguments, tries and result.

    Values that look secret are masked. Exit code 3 if the task is unknown.
    """
    from vibetuner.cli.task_queue import print_detail, run
    from vibetuner.tasks.inspect.detail import find_task

    detail = run(find_task, of=task_id, with_project=True, with_letters=True)
    print_detail(detail, as_json=as_json)


@app.command()
def watch(
    task_id: Id,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line, the last is the end.")
    ] = False,
) -> None:
    """Show a task's progress until it ends.

    Ctrl-C leaves the task running. Exit code 0 if it is done, 1 if it failed or was aborted, 3 if
    it is unknown.
    """
    import sys

    from vibetuner.cli.console import one_line
    from vibetuner.cli.watch import show_until_end

    last = show_until_end(task_id, as_json=as_json)
    if last.status != "complete":
        if not as_json and sys.stdout.isatty():
            print(
                f"Next:  vibetuner dead-letters show {one_line(last.task_id)}   (where it is kept)"
            )
        raise typer.Exit(1)


@app.command()
def why(task_id: Id, as_json: AsJson = False) -> None:
    """Explain why a task isn't running, and what to do.

    Exit code 3 if the task is unknown.
    """
    from vibetuner.cli.task_queue import print_reasons, run
    from vibetuner.tasks.inspect.why import explain

    row, reasons = run(explain, of=task_id, with_project=True, with_letters=True)
    print_reasons(row, reasons, as_json=as_json)


@app.command()
def stats(as_json: AsJson = False) -> None:
    """Show counts, wait and run times, and workers."""
    from vibetuner.cli.task_queue import print_stats, run
    from vibetuner.tasks.inspect.stats import read_stats

    print_stats(run(read_stats, with_letters=True), as_json=as_json)


@app.command()
def abort(task_id: Id, as_json: AsJson = False) -> None:
    """Abort a task, whatever its state; or remove the schedule of that name.

    Exit code 0 if it has ended, or its worker will end it; 1 if it had ended already; 3 if it is
    unknown.
    """
    from vibetuner.cli.console import print_json
    from vibetuner.cli.task_queue import print_reasons, run
    from vibetuner.tasks.inspect.actions import abort as abort_task
    from vibetuner.tasks.inspect.why import explain

    async def end(queue: Queue, whole: str) -> tuple[str, bool, Any]:
        is_ended = await abort_task(queue, whole)
        return whole, is_ended, None if is_ended or as_json else await explain(queue, whole)

    whole, is_ended, why = run(end, of=task_id, with_letters=True)
    if as_json:
        print_json({"id": whole, "aborted": is_ended})
    elif is_ended:
        print(f"{whole} is aborted")
    else:
        print(f"{whole} is marked: the worker that takes it ends it")
        print_reasons(*why)


@app.command()
def enqueue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task's name.")],
    args: Annotated[str, typer.Option(help="Its arguments as a JSON list.")] = "[]",
    kwargs: Annotated[str, typer.Option(help="Its named arguments as a JSON object.")] = "{}",
    as_json: AsJson = False,
) -> None:
    """Enqueue a task by name, after checking its arguments.

    Exit code 1 if they don't fit, 3 if the project has no such task.
    """
    from vibetuner.cli.console import print_json
    from vibetuner.cli.task_queue import run
    from vibetuner.tasks.inspect.actions import enqueue as enqueue_task

    positional = _parse("--args", args, list)
    named = _parse("--kwargs", kwargs, dict)
    task_id = run(lambda queue: enqueue_task(queue, name, positional, named), with_project=True)
    if as_json:
        print_json({"id": task_id, "task": name})
    else:
        print(task_id)
        print(f"Next:  vibetuner tasks show {task_id}")


def _parse(option: str, text: str, kind: type) -> Any:
    import json

    from vibetuner.errors import CommandError

    example = """'["acme", 3]'""" if kind is list else """'{"user_id": "7"}'"""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} takes JSON such as {example}: {error}") from None
    if not isinstance(value, kind):
        raise CommandError(f"{option} takes JSON such as {example}, not {text}")
    return value
