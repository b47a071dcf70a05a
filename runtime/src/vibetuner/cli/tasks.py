"""``vibetuner tasks``: look at enqueued tasks, and steer them."""

from __future__ import annotations

import typer

from vibetuner.cli.task_look import list_, show, stats, why
from vibetuner.cli.task_steer import abort, enqueue
from vibetuner.cli.watch import watch

__all__ = ["app"]

app = typer.Typer(help="Look at enqueued tasks, and steer them.", no_args_is_help=True)

app.command("list")(list_)
app.command("show")(show)
app.command("watch")(watch)
app.command("why")(why)
app.command("stats")(stats)
app.command("abort")(abort)
app.command("enqueue")(enqueue)
