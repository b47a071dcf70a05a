"""The event loop of a project's process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TypeVarTuple

import anyio

Args = TypeVarTuple("Args")


def run_in_loop(function: Callable[[*Args], Awaitable[None]], *args: *Args) -> None:
    """Run ``function`` to its end, in uvloop's event loop if it is installed."""
    anyio.run(function, *args, backend_options={"use_uvloop": find_spec("uvloop") is not None})
