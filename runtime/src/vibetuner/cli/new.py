"""``vibetuner new``: writes a task, a batch, a route, a model or sign-in into the project."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vibetuner.scaffold.draft import Draft, Place

__all__ = ["AsJson", "DryRun", "Force", "Skip", "app", "nothing_written"]

app = typer.Typer(
    help="Write a task, a batch, a route, a model or sign-in, with its test and line in tune.py.",
    invoke_without_command=True,
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="E.g. send-report or billing/send-report.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change; write nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that differ.")]
Skip = Annotated[bool, typer.Option("--skip", help="Keep files that differ.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
NoTest = Annotated[bool, typer.Option("--no-test", help="Write no test.")]


@app.callback()
def new(
    context: typer.Context,
    eject_templates: Annotated[
        bool,
        typer.Option(
            "--eject-templates", help="Copy the templates into scaffold/, for you to change."
        ),
    ] = False,
) -> None:
    """Write a task, a batch, a route, a model or sign-in, with its test and line in tune.py."""
    if eject_templates:
        from vibetuner.cli.new_work import eject

        eject()
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def task(  # noqa: PLR0913, PLR0917 - options
    name: NameArgument,
    cron: Annotated[
        str | None, typer.Option("--cron", help="Run on a schedule, e.g. '0 3 * * *' (UTC).")
    ] = None,
    unique: Annotated[bool, typer.Option("--unique", help="Run one at a time.")] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="Limit each try: 90s, 5m, 1h.")
    ] = None,
    progress: Annotated[
        bool, typer.Option("--progress", help="Add a page that starts it and shows its progress.")
    ] = False,
    sync: Annotated[
        bool, typer.Option("--sync", help="Write a plain function, which runs in a thread.")
    ] = False,
    no_test: NoTest = False,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a background task that is retried when it fails.

    Exit code 0 when it exists, 1 when a file differs or can't be written.
    """
    from vibetuner.crontab import find_ambiguity
    from vibetuner.scaffold.task import TaskOptions, check_free, draft_task, parse_timeout

    def draft(place: Place) -> Draft:
        options = TaskOptions(
            cron=cron,
            unique=unique,
            timeout=parse_timeout(timeout) if timeout is not None else None,
            sync=sync,
            progress=progress,
            test=not no_test,
        )
        parsed = place.parse_name(name, "task")
        check_free(place, parsed)
        if warning := find_ambiguity(cron or ""):
            print(f"warning: {warning}", file=sys.stderr)
        return draft_task(place, parsed, options)

    _write(draft, force=force, skip=skip, dry_run=dry_run, as_json=as_json)


@app.command()
def batch(  # noqa: PLR0913, PLR0917 - options
    name: NameArgument,
    no_test: NoTest = False,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a batch: a task for each item, one for the end, and a page with its progress.

    If tune.py lists the SQL outbox, the page starts it in a transaction.
    """
    from vibetuner.scaffold.batch import batch_tasks, draft_batch, has_outbox
    from vibetuner.scaffold.task import check_free

    def draft(place: Place) -> Draft:
        parsed = place.parse_name(name, "task")
        check_free(place, parsed, *batch_tasks(parsed))
        return draft_batch(place, parsed, outbox=has_outbox(place), test=not no_test)

    _write(draft, force=force, skip=skip, dry_run=dry_run, as_json=as_json)


@app.command()
def route(  # noqa: PLR0913, PLR0917 - options
    name: NameArgument,
    no_test: NoTest = False,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a page: a route and its template."""
    from vibetuner.scaffold.route import draft_route

    def draft(place: Place) -> Draft:
        return draft_route(place, place.parse_name(name, "route"), test=not no_test)

    _write(draft, force=force, skip=skip, dry_run=dry_run, as_json=as_json)


@app.command()
def model(  # noqa: PLR0913, PLR0917 - options
    name: NameArgument,
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD:TYPE]...",
            help="str, int, float, bool, date, datetime or uuid; add ? if it may be empty.",
        ),
    ] = None,
    document: Annotated[
        bool, typer.Option("--document", help="Write a MongoDB document, not an SQL table.")
    ] = False,
    no_test: NoTest = False,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write a model: an SQL table with its migration, or a MongoDB document."""
    from vibetuner.scaffold.model import check_table_free, draft_model, parse_fields

    def draft(place: Place) -> Draft:
        parsed = parse_fields(fields or [], document=document)
        parsed_name = place.parse_name(name, "model")
        check_table_free(place, parsed_name)
        return draft_model(place, parsed_name, parsed, document=document, test=not no_test)

    _write(draft, force=force, skip=skip, dry_run=dry_run, as_json=as_json)


@app.command()
def auth(
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write sign-in: passwords, links by mail, sessions, guarded pages and event streams.

    All of it is the project's own code, with its migration and its test. It needs MongoDB, the SQL
    database, and argon2-cffi: uv add argon2-cffi.
    """
    from vibetuner.config import get_settings
    from vibetuner.scaffold.auth import check_auth, check_databases, draft_auth

    def draft(place: Place) -> Draft:
        check_auth(place)
        check_databases(place, get_settings())
        return draft_auth(place)

    _write(draft, force=force, skip=skip, dry_run=dry_run, as_json=as_json)


@contextmanager
def nothing_written() -> Iterator[None]:
    """Report on Ctrl-C that nothing was written."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        raise


def _write(
    draft: Callable[[Place], Draft], *, force: bool, skip: bool, dry_run: bool, as_json: bool
) -> None:
    with nothing_written():
        from vibetuner.cli.new_work import carry_out, check_choice
        from vibetuner.scaffold.draft import find_place
        from vibetuner.scaffold.plan import plan_new

        check_choice(force=force, skip=skip)
        place = find_place()
        plan = plan_new(place, draft(place), force=force, skip=skip)
    raise typer.Exit(carry_out(plan, dry_run=dry_run, as_json=as_json))
