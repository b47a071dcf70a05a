"""``vibetuner worker-health``: for a container's health check."""

from __future__ import annotations

from typing import Annotated

import typer


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
