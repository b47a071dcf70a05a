"""Server-sent events: from a task, a route or a script to every open browser."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vibetuner.sse.broadcast import broadcast

if TYPE_CHECKING:
    from vibetuner.sse.endpoint import sse_endpoint

__all__ = ["broadcast", "sse_endpoint"]


def __getattr__(name: str) -> Any:
    # It needs the web framework, which a worker does without.
    if name != "sse_endpoint":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.endpoint").sse_endpoint
