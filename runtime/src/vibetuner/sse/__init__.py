"""Server-sent events: from a task, a route or a script to every open browser."""

from __future__ import annotations

from vibetuner.sse.broadcast import broadcast
from vibetuner.sse.endpoint import sse_endpoint

__all__ = ["broadcast", "sse_endpoint"]
