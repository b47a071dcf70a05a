"""The command line; a command imports what it needs when it runs, so that help is fast."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from vibetuner.cli.complaint import complaining
from vibetuner.cli.db import app as db
from vibetuner.cli.dead_letters import app as dead_letters
from vibetuner.cli.destroy import app as destroy
from vibetuner.cli.doctor import doctor
from vibetuner.cli.new import app as new
from vibetuner.cli.run import run
from vibetuner.cli.services import app as services
from vibetuner.cli.tasks import app as tasks
from vibetuner.cli.template_changes import template_changes


class Group(TyperGroup):
    """Its help option is False by default; typer would convert a None, by importing pydantic."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option that shows the help."""
        option = super().get_help_option(ctx)
        if option is not None and option.default is None:
            option.default = False
        return option


app = typer.Typer(
    name="vibetuner",
    cls=Group,
    help="Run and manage a web app with background tasks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
app.command("template-changes")(template_changes)
app.add_typer(new, name="new", cls=Group)
app.add_typer(destroy, name="destroy", cls=Group)
app.command("doctor")(doctor)


@app.command("worker-health")
def worker_health(
    here: Annotated[
        bool, typer.Option("--here", help="Count only workers of this machine or container.")
    ] = False,
    queue: Annotated[
        str | None, typer.Option(help="Count only workers that read this queue.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check that a worker of this queue is alive.

    A live worker's event loop has sent a heartbeat lately. Exit code 0 if there is one; 1 if there
    is none, or Redis does not answer.
    """
    from vibetuner.cli.alive import check_alive

    check_alive(here=here, queue=queue, as_json=as_json)


app.add_typer(services, name="services", cls=Group)
app.add_typer(db, name="db", cls=Group)
app.add_typer(tasks, name="tasks", cls=Group)
app.add_typer(dead_letters, name="dead-letters", cls=Group)


def main() -> None:
    """Run the command line; every expected error is one line and an exit code."""
    with complaining():
        sys.exit(_run())


def _run() -> int:
    """Run the command; return the exit code."""
    try:
        return app(standalone_mode=False) or 0
    except typer.Abort:
        print("error: not confirmed, nothing was done", file=sys.stderr)
        return 2
    except TyperException as error:
        message = error.format_message()
        context: typer.Context | None = getattr(error, "ctx", None)
        if context is None or message != context.get_help():
            # "Value error, " is pydantic's.
            message = f"error: {' '.join(message.split()).replace('Value error, ', '').rstrip('.')}"
            stop = "" if message.endswith("?") else "."
            message += f"{stop} See:  {context.command_path} --help" if context else ""
        print(message, file=sys.stderr)
        return error.exit_code


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from vibetuner import __version__

        print(f"vibetuner {__version__}")
        raise typer.Exit
