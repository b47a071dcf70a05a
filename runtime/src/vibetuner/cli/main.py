"""The command line; a command imports what it needs when it runs, so that help is fast."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from vibetuner.cli.complaint import complaining
from vibetuner.cli.db import app as db
from vibetuner.cli.dead_letters import app as dead_letters
from vibetuner.cli.destroy import app as destroy
from vibetuner.cli.loading import import_coredis, loading
from vibetuner.cli.new import app as new
from vibetuner.cli.services import app as services
from vibetuner.cli.tasks import app as tasks

# What takes longest to import, of the commands that talk to Redis.
DRIVERS = {"tasks": "vibetuner.cli.task_queue", "dead-letters": "vibetuner.cli.letters"}


NOTHING_NEWER = 3


class Group(TyperGroup):
    """A group without a help value of None, for whose conversion typer would import pydantic."""

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


@app.command()
def run(  # noqa: PLR0913, PLR0917 - options
    mode: Annotated[
        Literal["dev", "prod"], typer.Argument(help="dev reloads on change and sets DEBUG.")
    ],
    part: Annotated[
        Literal["frontend", "worker", "all"], typer.Argument(help="Processes to run.")
    ] = "all",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the web app (8000), or of a lone worker's monitor (11111).",
            min=1,
            max=65535,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Number of processes of each part.", min=1)] = 1,
    queues: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Queues that the worker reads, highest first; with weights: critical:6,bulk:1.",
        ),
    ] = None,
    allow_debug: Annotated[
        bool,
        typer.Option(
            "--allow-debug", help="Start prod with DEBUG=true, which shows your code to visitors."
        ),
    ] = False,
) -> None:
    """Run the web app, the worker, or both.

    With dev, create .env, start the embedded services and migrate the SQL database as needed, and
    restart when the code changes. Ctrl-C stops everything gracefully; a second Ctrl-C stops at
    once.
    """
    from vibetuner.cli.launch import Launch

    Launch(
        mode=mode,
        part=part,
        host=host,
        port=port,
        workers=workers,
        queues=queues,
        allow_debug=allow_debug,
    ).run()


@app.command("template-changes")
def template_changes(
    version: Annotated[
        str, typer.Argument(help="A version such as v0.2.0; the newest by default.")
    ] = "",
    committed: Annotated[
        bool, typer.Option("--committed", help="Refuse while something is not committed.")
    ] = False,
) -> None:
    """Show what is new in the template and the runtime.

    The project's version is compared with the newest, or with VERSION. Exit code 0 if there is
    something new, 3 if there isn't, 1 if the template can't be reached or something is not
    committed.
    """
    from vibetuner.cli.console import note_wait
    from vibetuner.cli.template_news import check_committed, fetch_news, sections_between
    from vibetuner.project import project_root

    root = project_root()
    if committed:
        check_committed(root)
    note_wait("asking the template's repository")
    news = fetch_news(root, version)
    if not news.next:
        print(
            f"The template has no releases yet, and the project has its commit {news.present}. To "
            "follow a branch:  uv run just template-update main"
        )
        raise typer.Exit(NOTHING_NEWER)
    if news.present == news.next:
        print(f"The project has {news.present} already{'' if version else ', the newest version'}.")
        raise typer.Exit(NOTHING_NEWER)
    print(f"The template and the runtime go from {news.present} to {news.next}.\n")
    print(
        sections_between(news.changelog, news.present, news.next)
        or "The changelog has no section for it."
    )


app.add_typer(new, name="new", cls=Group)
app.add_typer(destroy, name="destroy", cls=Group)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check the project, its settings, services and workers.

    Each problem is reported with its cure. Exit code 0 if there is no error, else 1.
    """
    from vibetuner.cli.checks.diagnosis import diagnose, print_findings
    from vibetuner.cli.console import prepare_env_file

    prepare_env_file()
    findings = diagnose()
    if not print_findings(findings, as_json=as_json):
        raise typer.Exit(1)


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
        _load(sys.argv[1:])
        sys.exit(_run())


def _load(arguments: list[str]) -> None:
    """Import the drivers of a command as a worker does; none to show a help."""
    module = DRIVERS.get(arguments[0]) if arguments[1:] else None
    if module and not {"-h", "--help"} & {*arguments}:
        with loading():
            import_coredis()
            import_module(module)


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
