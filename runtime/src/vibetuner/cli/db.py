"""``vibetuner db``: the tables of the SQL database, and their migrations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlmodel import SQLModel

    from vibetuner.resources.migrations import Migrations

app = typer.Typer(help="Migrate the SQL database, with Alembic.", no_args_is_help=True)

# `downgrade -1` is a revision, not an option.
RELATIVE = {"ignore_unknown_options": True}

Revision = typer.Argument(metavar="REVISION", help="An id, its beginning, head, base, +1 or -1.")


@app.command()
def revision(
    message: Annotated[str, typer.Argument(help="What changes, e.g. 'Add orders.total'.")],
    empty: Annotated[
        bool, typer.Option("--empty", help="Write no operations: you write them.")
    ] = False,
) -> None:
    """Write a migration with the changes of the models.

    The first one creates the folder src/<package>/migrations. Read the file before you run it:
    Alembic can't recognise a rename, for example.
    """
    from vibetuner.cli.console import prepare_env_file
    from vibetuner.config import get_settings
    from vibetuner.project import project_info
    from vibetuner.resources.migrations import Migrations
    from vibetuner.resources.schema import has_migrations

    prepare_env_file()
    project = project_info()
    # With migrations there may be a last one, which drops the tables that no model describes.
    if not (has_migrations(project) and Migrations(project).heads):
        _models()
    if not has_migrations(project):
        _write_environment()
    migrations = Migrations(project)
    first = not migrations.heads
    try:
        path = migrations.revision(message, empty=empty).relative_to(project.root)
    except KeyboardInterrupt:
        print("interrupted: no migration was written", file=sys.stderr)
        raise
    print(f"created: {path}")
    if first and get_settings().database_url:
        # A database that was in use before the first migration has its tables already.
        migrations = Migrations(project)
        migrations.upgrade()
        _report(migrations)
    else:
        print("Next:\n    uv run vibetuner db upgrade")


@app.command(context_settings=RELATIVE)
def upgrade(revision: Annotated[str, Revision] = "head") -> None:
    """Run the pending migrations, all or none of them.

    In a project without migrations, create the tables that are missing.
    """
    from vibetuner.cli.console import prepare_env_file
    from vibetuner.project import project_info
    from vibetuner.resources.schema import has_migrations

    prepare_env_file()
    if not has_migrations(project_info()):
        _create_tables()
        return
    migrations = _migrations()
    migrations.upgrade(revision)
    _report(migrations)


@app.command(context_settings=RELATIVE)
def downgrade(revision: Annotated[str, Revision] = "-1") -> None:
    """Undo the last migration, or all that are newer than REVISION."""
    migrations = _migrations()
    migrations.downgrade(revision)
    _report(migrations)


@app.command()
def check() -> None:
    """Check that the database is at the newest migration and matches the models.

    Exit code 0 if it does, 1 if it doesn't.
    """
    _migrations().check()
    print("the tables are as the models have them")


@app.command(context_settings=RELATIVE)
def stamp(revision: Annotated[str, Revision]) -> None:
    """Record that the database is at REVISION; run no migration."""
    migrations = _migrations()
    migrations.stamp(revision)
    _report(migrations)


@app.command("create-schema", hidden=True)
def create_schema() -> None:
    """Run `upgrade`; the name of this command before there were migrations."""
    upgrade("head")


def _migrations() -> Migrations:
    from vibetuner.cli.console import prepare_env_file
    from vibetuner.resources.migrations import Migrations

    prepare_env_file()
    return Migrations()


def _report(migrations: Migrations) -> None:
    print("\n".join(migrations.applied) or "nothing to do: the database is at that revision")


def _create_tables() -> None:
    import asyncio

    from vibetuner.config import get_settings
    from vibetuner.resources.sql import create_schema

    created = asyncio.run(create_schema(get_settings(), _models()))
    print(f"created: {', '.join(created)}" if created else "nothing to do: every table is there")


def _models() -> Sequence[type[SQLModel]]:
    from vibetuner.errors import CommandError
    from vibetuner.loader import load_project

    models = load_project().sql_models
    if not models:
        raise CommandError(
            "tune.py lists no tables. Add to VibetunerApp(...) there:  sql_models=[YourModel]"
        )
    return models


def _write_environment() -> None:
    """Write the environment for Alembic, like that of the template's projects."""
    from vibetuner.cli.new_work import carry_out
    from vibetuner.scaffold.draft import find_place
    from vibetuner.scaffold.migration import draft_environment
    from vibetuner.scaffold.plan import plan_new

    place = find_place()
    carry_out(plan_new(place, draft_environment(place)), dry_run=False, as_json=False)
