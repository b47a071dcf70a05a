"""``vibetuner dead-letters``: show, retry and discard the records of failed tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vibetuner.tasks.dead_letters import Verb

app = typer.Typer(
    help="Show tasks that failed for good; retry or discard them.", no_args_is_help=True
)

NOTHING_MATCHED = 3

Task = Annotated[str | None, typer.Option("--task", help="Only letters of the task of this name.")]
CauseName = Annotated[
    str | None, typer.Option("--cause", help="Only letters of this cause, e.g. timeout.")
]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="Only letters of this bug; `show` prints it.")
]
Since = Annotated[
    str | None, typer.Option("--since", help="Failed since: 30m, 2h, 3d, or a date (UTC).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
WithActed = Annotated[
    bool, typer.Option("--all", help="Include letters that were retried or discarded.")
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Ids of tasks, or their first 8 characters.", metavar="[ID]..."),
]
Everything = Annotated[bool, typer.Option("--all", help="All letters that match.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The most letters to show.")]
AtMost = Annotated[int | None, typer.Option("--limit", min=1, help="The most letters to act on.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(  # noqa: PLR0913, PLR0917 - options
    task: Task = None,
    cause: CauseName = None,
    fingerprint: Fingerprint = None,
    since: Since = None,
    acted: WithActed = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first.

    Exit code 0 if there are any, 3 if nothing matches.
    """
    from vibetuner.cli.letters import fetch, parse_filters, print_list, run

    filters = parse_filters(task, cause, fingerprint, since, open_only=not acted)
    page, total = run(fetch(filters, limit))
    print_list(page, total, as_json=as_json)
    if not total:
        raise typer.Exit(NOTHING_MATCHED)


@app.command()
def count(  # noqa: PLR0913, PLR0917 - options
    task: Task = None,
    cause: CauseName = None,
    fingerprint: Fingerprint = None,
    since: Since = None,
    acted: WithActed = False,
    as_json: AsJson = False,
) -> None:
    """Print the number of dead letters that match."""
    from vibetuner.cli.letters import parse_filters, run
    from vibetuner.tasks.dead_letters import total

    found = run(total(parse_filters(task, cause, fingerprint, since, open_only=not acted)))
    print(f'{{"count": {found}}}' if as_json else found)


@app.command()
def show(
    task_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, or the first 8 characters.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show a dead letter with its arguments and its traceback.

    Exit code 3 if there is none with this id.
    """
    from vibetuner.cli.letters import print_letter, run
    from vibetuner.tasks.dead_letters import get

    print_letter(run(get(task_id)), as_json=as_json)


def _add_act(verb: Verb, summary: str) -> None:
    """Add a command that retries or discards letters."""

    @app.command(verb, help=summary)
    def act(  # noqa: PLR0913, PLR0917 - options
        ids: Ids = None,
        everything: Everything = False,
        task: Task = None,
        cause: CauseName = None,
        fingerprint: Fingerprint = None,
        since: Since = None,
        limit: AtMost = None,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        from vibetuner.cli.letters import parse_filters, print_outcome, run, settle_all, settle_some
        from vibetuner.errors import CommandError

        filters = parse_filters(task, cause, fingerprint, since)
        filtered = filters.narrowed or limit is not None
        if bool(ids) == everything or (ids and filtered):
            raise CommandError(
                f"Say what to {verb}: ids, or --all, which --task, --cause, --fingerprint, "
                "--since and --limit narrow down"
            )
        outcome = run(
            settle_some(verb, ids, yes=yes)
            if ids
            else settle_all(verb, filters, limit=limit, yes=yes)
        )
        print_outcome(verb, outcome, as_json=as_json)
        if outcome.error is not None:
            raise outcome.error
        if outcome.refused:
            raise typer.Exit(1)
        if not outcome.done:
            raise typer.Exit(NOTHING_MATCHED)


_add_act(
    "retry",
    """Enqueue dead letters' tasks again, with their arguments.

    Each is retried once, however often you ask. Exit code 0 if all were retried, 1 if one could not
    be, 2 if you did not confirm, 3 if nothing matches.
    """,
)
_add_act(
    "discard",
    """Close dead letters without a retry; their records stay.

    A terminal is asked first; elsewhere, confirm with --yes.

    Exit code 0 if all were discarded, 1 if one could not be, 2 if you did not confirm, 3 if nothing
    matches.
    """,
)
