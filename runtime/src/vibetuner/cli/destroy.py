"""``vibetuner destroy``: removes code that `vibetuner new` wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibetuner.cli.new import AsJson, DryRun, Force, Skip, nothing_written

if TYPE_CHECKING:
    from vibetuner.scaffold.draft import Draft, Place
    from vibetuner.scaffold.names import Name

__all__ = ["app"]

app = typer.Typer(
    help="Remove a task, a batch, a route, a model or sign-in, with its test and line in tune.py.",
    no_args_is_help=True,
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The name given to `vibetuner new`.")
]


@app.command()
def task(
    name: NameArgument,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove an unchanged task; report its queued tasks and dead letters.

    Exit code 0 if it is gone, 1 if a file was changed or there is no such task.
    """
    from vibetuner.scaffold.task import draft_of_task

    _remove(
        "task", name, draft_of_task, lambda parsed: (parsed.leaf,),
        force=force, skip=skip, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


@app.command()
def batch(
    name: NameArgument,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove an unchanged batch; report its queued tasks and dead letters."""
    from vibetuner.scaffold.batch import batch_tasks, draft_of_batch

    _remove(
        "task", name, draft_of_batch, batch_tasks,
        force=force, skip=skip, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


@app.command()
def route(
    name: NameArgument,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove an unchanged page."""
    from vibetuner.scaffold.route import draft_of_route

    _remove("route", name, draft_of_route, force=force, skip=skip, dry_run=dry_run, as_json=as_json)


@app.command()
def model(
    name: NameArgument,
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove an unchanged model; its data and its migration stay."""
    from vibetuner.scaffold.model import draft_of_model

    _remove("model", name, draft_of_model, force=force, skip=skip, dry_run=dry_run, as_json=as_json)


@app.command()
def auth(
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove unchanged sign-in; its data and its migration stay."""
    from vibetuner.scaffold.auth import draft_of_auth

    with nothing_written():
        from vibetuner.cli.new_work import carry_out, check_choice
        from vibetuner.scaffold.draft import find_place
        from vibetuner.scaffold.plan import plan_removal

        check_choice(force=force, skip=skip)
        place = find_place()
        plan = plan_removal(place, draft_of_auth(place), force=force, skip=skip)
    raise typer.Exit(carry_out(plan, dry_run=dry_run, as_json=as_json))


@app.command()
def example(
    force: Force = False,
    skip: Skip = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove the template's example; add one page and one task instead.

    Exit code 0 if it is gone; 1 if a part of it was changed or is not committed, or there is no
    example. Its migration is removed too, so drop its tables first.
    """
    with nothing_written():
        from vibetuner.cli.example import plan_without_example
        from vibetuner.cli.new_work import carry_out, check_choice
        from vibetuner.scaffold.draft import find_place

        check_choice(force=force, skip=skip)
        place = find_place()
        plan = plan_without_example(place, force=force, skip=skip)
        _check_migrations(place)
    raise typer.Exit(carry_out(plan, dry_run=dry_run, as_json=as_json))


def _check_migrations(place: Place) -> None:
    """Raise CommandError if the example's migration was applied, or other migrations follow it."""
    import asyncio

    from vibetuner.config import get_settings
    from vibetuner.errors import CommandError

    versions = place.root / place.source / "migrations" / "versions"
    if len(list(versions.glob("*.py"))) > 1:
        raise CommandError(
            "Other migrations follow the example's, so it stays. Delete its models by hand, then:  "
            "vibetuner db revision 'Remove the example'"
        )
    if any(versions.glob("*.py")) and get_settings().database_url:
        from vibetuner.resources.migrations import Migrations

        if asyncio.run(Migrations().current()):
            raise CommandError(
                "The database has the example's tables, whose migration would go. Drop them:  "
                "vibetuner db downgrade base"
            )


def _remove(  # noqa: PLR0913 - options
    kind: str,
    text: str,
    draft: Callable[[Place, Name], Draft],
    tasks_of: Callable[[Name], Sequence[str]] | None = None,
    *,
    force: bool,
    skip: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    with nothing_written():
        from vibetuner.cli.new_work import carry_out, check_choice
        from vibetuner.scaffold.draft import find_place
        from vibetuner.scaffold.plan import plan_removal

        check_choice(force=force, skip=skip)
        place = find_place()
        name = place.parse_name(text, kind)
        plan = plan_removal(place, draft(place, name), force=force, skip=skip)
        left_over: dict[str, Any] = {}
        if tasks_of is not None and not plan.conflicts:
            from vibetuner.cli.left_over import ask_left_over

            left_over = ask_left_over(*tasks_of(name))
    raise typer.Exit(carry_out(plan, dry_run=dry_run, as_json=as_json, facts=left_over))
