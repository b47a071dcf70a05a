"""``vibetuner new``: writes a task, a batch, a route, a model or sign-in into the project."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vibetuner.scaffold.draft import Draft, Place

app = typer.Typer(
    help="Write a task, a batch, a route, a model or sign-in, with its test and line in tune.py.",
    invoke_without_command=True,
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="E.g. send-report or billing/send-report.")
]
NoTest = Annotated[bool, typer.Option("--no-test", help="Write no test.")]
# The options of every command that writes files.
OPTIONS = {
    "force": typer.Option("--force", help="Overwrite files that differ."),
    "skip": typer.Option("--skip", help="Keep files that differ."),
    "dry_run": typer.Option("--dry-run", help="Show what would change; write nothing."),
    "as_json": typer.Option("--json", help="Print one JSON document."),
}


def writes_files(*, removes: bool = False) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Add :data:`OPTIONS` to a command, and create, or remove, the draft that it returns.

    The command gets the project as ``place``. In place of a draft, it may return a function that
    makes the plan; it gets ``force=`` and ``skip=``.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., None]:
        @wraps(command)
        def run(*, force: bool, skip: bool, dry_run: bool, as_json: bool, **given: Any) -> None:
            try:
                from vibetuner.cli.new_work import carry_out, check_choice
                from vibetuner.scaffold.draft import find_place
                from vibetuner.scaffold.plan import plan_new, plan_removal

                check_choice(force=force, skip=skip)
                place = find_place()
                made = command(place, **given)
                if not callable(made):
                    made = partial(plan_removal if removes else plan_new, place, made)
                plan = made(force=force, skip=skip)
                left_over: dict[str, Any] = {}
                if plan.lost_tasks and not plan.conflicts:
                    from vibetuner.cli.left_over import ask_left_over

                    left_over = ask_left_over(*plan.lost_tasks)
            except KeyboardInterrupt:
                print("interrupted: nothing was written", file=sys.stderr)
                raise
            carry_out(plan, dry_run=dry_run, as_json=as_json, facts=left_over)

        # Typer reads the options from here. The types of drafts are slow to import.
        slow = dict.fromkeys(("Draft", "Place", "Plan"), Any)
        _, *parameters = signature(command, locals=slow, eval_str=True).parameters.values()
        for name, option in OPTIONS.items():
            kind = Annotated[bool, option]
            more = Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            parameters.append(more)
        shown: Any = run
        shown.__signature__ = Signature(parameters)
        shown.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


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
@writes_files()
def task(  # noqa: PLR0913, PLR0917 - options
    place: Place,
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
) -> Draft:
    """Write a background task that is retried when it fails.

    Exit code 0 when it exists, 1 when a file differs or can't be written.
    """
    from vibetuner.crontab import find_ambiguity
    from vibetuner.scaffold.route import check_page_free
    from vibetuner.scaffold.task import TaskOptions, check_free, draft_task, parse_timeout

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
    if progress:
        check_page_free(place, parsed)
    if warning := find_ambiguity(cron or ""):
        print(f"warning: {warning}", file=sys.stderr)
    return draft_task(place, parsed, options)


@app.command()
@writes_files()
def batch(place: Place, name: NameArgument, no_test: NoTest = False) -> Draft:
    """Write a batch: a task for each item, one for the end, and a page with its progress.

    If tune.py lists the SQL outbox, the page starts it in a transaction.
    """
    from vibetuner.scaffold.route import check_page_free
    from vibetuner.scaffold.task import batch_tasks, check_free, draft_batch, has_outbox

    parsed = place.parse_name(name, "task")
    check_free(place, parsed, *batch_tasks(parsed))
    check_page_free(place, parsed)
    return draft_batch(place, parsed, outbox=has_outbox(place), test=not no_test)


@app.command()
@writes_files()
def route(place: Place, name: NameArgument, no_test: NoTest = False) -> Draft:
    """Write a page: a route and its template."""
    from vibetuner.scaffold.route import check_page_free, draft_route

    parsed = place.parse_name(name, "route")
    check_page_free(place, parsed)
    return draft_route(place, parsed, test=not no_test)


@app.command()
@writes_files()
def model(
    place: Place,
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
) -> Draft:
    """Write a model: an SQL table with its migration, or a MongoDB document."""
    from vibetuner.scaffold.model import check_table_free, draft_model, parse_fields

    parsed = parse_fields(fields or [], document=document)
    parsed_name = place.parse_name(name, "model")
    check_table_free(place, parsed_name, document=document)
    return draft_model(place, parsed_name, parsed, document=document, test=not no_test)


@app.command()
@writes_files()
def auth(place: Place) -> Draft:
    """Write sign-in: passwords, links by mail, sessions, guarded pages and event streams.

    All of it is the project's own code, with its migration and its test. It needs MongoDB, the SQL
    database, and argon2-cffi: uv add argon2-cffi.
    """
    from vibetuner.config import get_settings
    from vibetuner.scaffold.auth import check_auth, check_databases, draft_auth

    check_auth(place)
    check_databases(place, get_settings())
    return draft_auth(place)
