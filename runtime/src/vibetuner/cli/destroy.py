"""``vibetuner destroy``: removes code that `vibetuner new` wrote."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from vibetuner.cli.new import writes_files

if TYPE_CHECKING:
    from vibetuner.scaffold.draft import Draft, Place
    from vibetuner.scaffold.plan import Plan

app = typer.Typer(
    help="Remove a task, a batch, a route, a model or sign-in, with its test and line in tune.py.",
    no_args_is_help=True,
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The name given to `vibetuner new`.")
]


@app.command()
@writes_files(removes=True)
def task(place: Place, name: NameArgument) -> Draft:
    """Remove an unchanged task; report its queued tasks and dead letters.

    Exit code 0 if it is gone, 1 if a file was changed or there is no such task.
    """
    from vibetuner.scaffold.task import draft_of_task

    return draft_of_task(place, place.parse_name(name, "task"))


@app.command()
@writes_files(removes=True)
def batch(place: Place, name: NameArgument) -> Draft:
    """Remove an unchanged batch; report its queued tasks and dead letters."""
    from vibetuner.scaffold.task import draft_of_batch

    return draft_of_batch(place, place.parse_name(name, "task"))


@app.command()
@writes_files(removes=True)
def route(place: Place, name: NameArgument) -> Draft:
    """Remove an unchanged page."""
    from vibetuner.scaffold.route import draft_of_route

    return draft_of_route(place, place.parse_name(name, "route"))


@app.command()
@writes_files(removes=True)
def model(place: Place, name: NameArgument) -> Draft:
    """Remove an unchanged model; its data and its migration stay."""
    from vibetuner.scaffold.model import draft_of_model

    return draft_of_model(place, place.parse_name(name, "model"))


@app.command()
@writes_files(removes=True)
def auth(place: Place) -> Draft:
    """Remove unchanged sign-in; its data and its migration stay."""
    from vibetuner.scaffold.auth import draft_of_auth

    return draft_of_auth(place)


@app.command()
@writes_files(removes=True)
def example(place: Place) -> Callable[..., Plan]:
    """Remove the template's example; add one page and one task instead.

    Exit code 0 if it is gone; 1 if a part of it was changed or is not committed, or there is no
    example. Its migration is removed too, so drop its tables first.
    """
    from vibetuner.cli.example import answers_with_example, plan_without_example

    answers = answers_with_example(place.root)
    _check_migrations(place)  # before the template is rendered, which takes seconds
    return partial(plan_without_example, place, answers)


def _check_migrations(place: Place) -> None:
    """Raise CommandError if the example's migration was applied, or other migrations follow it."""
    import asyncio

    from vibetuner.config import get_settings
    from vibetuner.errors import CommandError

    versions = place.migrations / "versions"
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
