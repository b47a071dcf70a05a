"""Streams an event to open pages when something has happened."""

from __future__ import annotations

from vibetuner.errors import VibetunerError
from vibetuner.frontend.debug.render import HEADERS
from vibetuner.sse.event import Event
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.stream import KEEPALIVE, EventStream, Write
from vibetuner.tasks.inspect.queue import answering, this_queue

__all__ = ["ChangeStream"]

CHANNEL = "vibetuner:debug:tasks"
CHANGED = Event("changed", "").frame
LOOK_SECONDS = 1.0
KEEPALIVE_LOOKS = 15


class ChangeStream(EventStream):
    """Sends an event when the queue has changed; polls once a second while somebody watches."""

    def __init__(self) -> None:
        super().__init__(CHANNEL)
        self.headers.update(HEADERS)

    async def run(self, subscriber: Subscriber, write: Write) -> None:
        """Poll and send until the browser has gone or the process stops."""
        last, quiet = await _pulse(), 0
        # The page reloads at once, as something may have happened before its stream was opened.
        await write(CHANGED)
        while not subscriber.closed:
            await subscriber.pause(LOOK_SECONDS)
            now = await _pulse()
            if now != last:
                last, quiet = now, 0
                await write(CHANGED)
            elif (quiet := quiet + 1) % KEEPALIVE_LOOKS == 0:
                await write(KEEPALIVE)


async def _pulse() -> tuple[object, ...]:
    try:
        async with answering(2.0):
            return await this_queue().pulse()
    except VibetunerError as error:
        return (str(error),)
