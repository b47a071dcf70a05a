"""``vibetuner tasks``: look at what was enqueued."""

from __future__ import annotations

import typer

from vibetuner.cli.watch import watch

__all__ = ["app"]

app = typer.Typer(help="Look at enqueued tasks.", no_args_is_help=True)
app.command()(watch)


@app.callback()
def _group() -> None:
    """Look at enqueued tasks."""
