"""``vibetuner run``: the web app, the worker, or both under one supervisor."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Mode(StrEnum):
    """The purpose that the processes run for."""

    dev = "dev"
    prod = "prod"


class Part(StrEnum):
    """The processes to run."""

    frontend = "frontend"
    worker = "worker"
    all = "all"


def run(  # noqa: PLR0913, PLR0917 - options
    mode: Annotated[Mode, typer.Argument(help="dev reloads on change and sets DEBUG.")],
    part: Annotated[Part, typer.Argument(help="Processes to run.")] = Part.all,
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
        mode=mode.value,
        part=part.value,
        host=host,
        port=port,
        workers=workers,
        queues=queues,
        allow_debug=allow_debug,
    ).run()
