"""The event loop of a project's process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TypeVarTuple

import anyio

from vibetuner.cli.complaint import leave_soon

Args = TypeVarTuple("Args")


def run_in_loop(function: Callable[[*Args], Awaitable[None]], *args: *Args) -> None:
    """Run ``function`` to its end, in uvloop's event loop if it is installed.

    Once it has returned, threads don't keep the process for more than a second.
    """

    async def run() -> None:
        await function(*args)
        leave_soon(0)

    anyio.run(run, backend_options={"use_uvloop": find_spec("uvloop") is not None})
