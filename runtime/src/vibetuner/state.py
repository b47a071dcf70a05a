"""The clients that a process has open right now, their event loop, and how long a request waits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

from vibetuner.errors import WrongEventLoop

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

REQUEST_SECONDS = 5.0

#: Seconds that one call to an outside system may take while a request waits for it; None elsewhere.
#: Set around each request, and while a web process opens its clients.
request_seconds: ContextVar[float | None] = ContextVar("request_seconds", default=None)


@contextmanager
def for_requests() -> Iterator[None]:
    """Set :data:`request_seconds` for the calls and the clients that the block makes."""
    token = request_seconds.set(REQUEST_SECONDS)
    try:
        yield
    finally:
        request_seconds.reset(token)


class Slot(Generic[T]):
    """Holds a value while a lifespan runs, and nothing otherwise.

    ``missing`` makes the error that :meth:`get` raises when nothing is open. The latest value
    counts, so a test may open a second one inside the first. A slot with a ``name`` holds a value
    that works in one event loop only, and refuses to be read in another.

    >>> clients = Slot[str](lambda: RuntimeError("no client is open"))
    >>> with clients.hold("a client"):
    ...     clients.get()
    'a client'
    >>> clients.peek() is None
    True
    """

    def __init__(self, missing: Callable[[], Exception], *, name: str = "") -> None:
        self._missing = missing
        self._name = name
        self._held: list[tuple[T, Place]] = []

    def get(self) -> T:
        """Return the open value.

        Raises:
            Exception: nothing is open; ``missing`` makes this error.
            WrongEventLoop: it is open in another event loop or process.
        """
        if not self._held:
            raise self._missing()
        return self._newest()

    def peek(self) -> T | None:
        """Return the open value or None; raises WrongEventLoop like :meth:`get`."""
        return self._newest() if self._held else None

    @contextmanager
    def hold(self, value: T) -> Iterator[T]:
        """Set the value for the length of the block."""
        held = (value, Place())
        self._held.append(held)
        try:
            yield value
        finally:
            # By identity: two databases of PyMongo on one server are equal.
            self._held[:] = [one for one in self._held if one is not held]

    def _newest(self) -> T:
        value, place = self._held[-1]
        if self._name:
            place.check(self._name)
        return value


class Place:
    """The process and the event loop that a connection is opened in, and works in."""

    def __init__(self) -> None:
        self.loop = running_loop()
        self._process = os.getpid()

    def check(self, name: str) -> None:
        """Raise if this is not the place in which ``name`` is open.

        Call it before anything is sent. Without a running loop nothing can be awaited, so nothing
        is refused for it.

        Raises:
            WrongEventLoop: another event loop runs here, or this process is a fork.
        """
        if self._process != os.getpid():
            raise WrongEventLoop(
                f"{name} is open in the process that this one was forked from, so nothing was "
                'sent. Start this one with  multiprocessing.get_context("spawn")'
            )
        here = running_loop()
        if self.loop is None or here is None or here is self.loop:
            return
        raise WrongEventLoop(
            f"{name} is open in another event loop than the one that runs here, so nothing was "
            "sent. In a function that is not async, put  anyio.from_thread.run(function, "
            "*arguments)  in place of asyncio.run(); elsewhere, open it in this loop"
        )


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    # Importing asyncio takes longer than some commands; if nobody has imported it, no loop runs.
    if (module := sys.modules.get("asyncio")) is None:
        return None
    try:
        loop: asyncio.AbstractEventLoop = module.get_running_loop()
    except (RuntimeError, AttributeError):  # AttributeError: it is still being imported
        return None
    return loop
