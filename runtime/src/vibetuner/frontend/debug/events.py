"""Tells an open page that something has happened."""

from __future__ import annotations

from collections.abc import AsyncIterator

from vibetuner.errors import VibetunerError
from vibetuner.sse.hub import Event, get_hub
from vibetuner.tasks.overview.queue import answering, this_queue

__all__ = ["CHANNEL", "changes"]

CHANNEL = "vibetuner:debug:tasks"
LOOK_SECONDS = 1.0
KEEPALIVE_LOOKS = 15


async def changes() -> AsyncIterator[bytes]:
    """An event whenever the queue has changed; looked for once a second, while somebody watches."""
    last, quiet = await _pulse(), 0
    # What happened between the page and its stream must not be missed: it looks again at once.
    yield b"retry: 2000\n\n" + Event("changed", "").encode()
    with get_hub().subscribe(CHANNEL) as subscriber:
        async for event in subscriber.events(keepalive=LOOK_SECONDS):
            now = await _pulse()
            if event is not None or now != last:
                last, quiet = now, 0
                yield Event("changed", "").encode()
            elif (quiet := quiet + 1) % KEEPALIVE_LOOKS == 0:
                yield b": keepalive\n\n"


async def _pulse() -> tuple[object, ...]:
    try:
        async with answering(2.0):
            return await this_queue().pulse()
    except VibetunerError as error:
        return (str(error),)
