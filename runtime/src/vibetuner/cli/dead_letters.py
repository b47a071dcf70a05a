"""``vibetuner dead-letters``: look at what failed for good, retry it, or discard it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vibetuner.cli.letter_jobs import Job
    from vibetuner.cli.letters import Wanted

__all__ = ["app"]

app = typer.Typer(
    help="Look at tasks that failed for good; retry or discard them.", no_args_is_help=True
)

NOTHING_MATCHED = 3

Task = Annotated[str | None, typer.Option("--task", help="Those of the task of this name.")]
CauseName = Annotated[
    str | None, typer.Option("--cause", help="Those that ended like this, e.g. timeout.")
]
Fingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="Those of the same bug; `show` tells which.")
]
Since = Annotated[
    str | None, typer.Option("--since", help="Failed since: 30m, 2h, 3d, or a date (UTC).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
WithActed = Annotated[bool, typer.Option("--all", help="Also those retried or discarded.")]
Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Ids of tasks, or their first 8 characters.", metavar="[ID]..."),
]
Everything = Annotated[bool, typer.Option("--all", help="All that the filters leave.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="How many at the most.")]
AtMost = Annotated[int | None, typer.Option("--limit", min=1, help="How many at the most.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


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
    """List dead letters, the newest first.

    Exit code 0 when there are some, 3 when nothing matches.
    """
    from vibetuner.cli.letters import fetch, run
    from vibetuner.cli.letters_view import print_json_list, print_list

    wanted = _wanted(task, cause, fingerprint, since, open_only=not acted)
    letters, total = run(fetch(wanted, limit))
    if as_json:
        print_json_list(letters, total)
    else:
        print_list(letters, total)
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
    """Print how many there are."""
    from vibetuner.cli.letters import fetch_count, run

    total = run(fetch_count(_wanted(task, cause, fingerprint, since, open_only=not acted)))
    print(f'{{"count": {total}}}' if as_json else total)


@app.command()
def show(
    task_id: Annotated[
        str, typer.Argument(metavar="ID", help="The task's id, or its first 8 characters.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its arguments and its traceback.

    Exit code 3 when there is none of this id.
    """
    from vibetuner.cli.letters import fetch_one, run
    from vibetuner.cli.letters_view import print_json_letter, print_letter

    letter = run(fetch_one(task_id))
    if as_json:
        print_json_letter(letter)
    else:
        print_letter(letter)


@app.command()
def retry(  # noqa: PLR0913, PLR0917 - options
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
    """Enqueue tasks again, with the arguments they had; each once, however often you ask.

    Exit code 0 when done, 1 when something could not be retried, 2 when it was not confirmed,
    3 when nothing matches.
    """
    from vibetuner.cli.letters import RETRY

    wanted = _wanted(task, cause, fingerprint, since)
    _act(RETRY, ids or [], wanted, everything=everything, limit=limit, yes=yes, as_json=as_json)


@app.command()
def discard(  # noqa: PLR0913, PLR0917 - options
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
    """Mark dead letters as settled without a retry; their records stay.

    Exit code 0 when done, 1 when something could not be discarded, 2 when it was not confirmed,
    3 when nothing matches.
    """
    from vibetuner.cli.letters import DISCARD

    wanted = _wanted(task, cause, fingerprint, since)
    _act(DISCARD, ids or [], wanted, everything=everything, limit=limit, yes=yes, as_json=as_json)


def _wanted(
    task: str | None,
    cause: str | None,
    fingerprint: str | None,
    since: str | None,
    *,
    open_only: bool = True,
) -> Wanted:
    from datetime import UTC, datetime

    from vibetuner.cli.letters import Wanted, parse_cause, parse_since

    return Wanted(
        task=task,
        cause=parse_cause(cause) if cause else None,
        fingerprint=fingerprint,
        since=parse_since(since, datetime.now(UTC)) if since else None,
        open_only=open_only,
    )


def _act(  # noqa: PLR0913 - options
    job: Job,
    ids: list[str],
    wanted: Wanted,
    *,
    everything: bool,
    limit: int | None,
    yes: bool,
    as_json: bool,
) -> None:
    from vibetuner.cli.letters import run, settle_all, settle_some
    from vibetuner.cli.letters_view import print_json_outcome, print_outcome
    from vibetuner.errors import CommandError

    filtered = wanted.narrowed or limit is not None
    if bool(ids) == everything or (ids and filtered):
        raise CommandError(
            f"Say what to {job.verb}: ids, or --all, which --task, --cause, --fingerprint, "
            "--since and --limit narrow down"
        )
    outcome = run(
        settle_some(job, ids, yes=yes) if ids else settle_all(job, wanted, limit=limit, yes=yes)
    )
    if as_json:
        print_json_outcome(job, outcome)
    else:
        print_outcome(job, outcome)
    if outcome.error is not None:
        raise outcome.error
    if outcome.refused:
        raise typer.Exit(1)
    if not outcome.done:
        raise typer.Exit(NOTHING_MATCHED)
