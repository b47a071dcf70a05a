"""``vibetuner db``: the SQL database."""

from __future__ import annotations

import typer

__all__ = ["app", "create_project_schema"]

app = typer.Typer(help="Look after the SQL database.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("create-schema")
def create_schema() -> None:
    """Create the tables of tune.py's sql_models that are missing."""
    from vibetuner.errors import CommandError
    from vibetuner.loader import load_project

    if not load_project().sql_models:
        raise CommandError(
            "tune.py lists no tables. Add to VibetunerApp(...) there:  sql_models=[YourModel]"
        )
    created = create_project_schema()
    print(f"created: {', '.join(created)}" if created else "nothing to do: every table is there")


def create_project_schema() -> list[str]:
    """Create what is missing; returns the names of the tables made."""
    import asyncio

    from vibetuner.config import get_settings
    from vibetuner.loader import load_project
    from vibetuner.resources.sql import create_schema

    return asyncio.run(create_schema(get_settings(), load_project().sql_models))
