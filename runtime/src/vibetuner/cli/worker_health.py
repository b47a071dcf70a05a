"""``vibetuner worker-health``: for a container's health check."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["worker_health"]


def worker_health(
    here: Annotated[
        bool, typer.Option("--here", help="Only workers of this machine or container count.")
    ] = False,
    queue: Annotated[
        str | None, typer.Option(help="Only workers that read this queue count.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Succeed if a worker of this queue is alive: its own event loop has left a heartbeat lately.

    Exit code 0 if there is one, 1 if not, or if Redis does not answer.
    """
    from vibetuner.cli.alive import check_alive

    check_alive(here=here, queue=queue, as_json=as_json)
