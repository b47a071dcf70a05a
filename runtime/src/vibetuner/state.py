"""What a process has open right now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

__all__ = ["Slot"]


class Slot(Generic[T]):
    """A place that is filled while a lifespan runs and empty otherwise.

    ``missing`` makes the error that :meth:`get` raises when nothing is open. The latest holder
    wins, so that a test may open a second one inside the first.

    >>> clients = Slot[str](lambda: RuntimeError("no client is open"))
    >>> with clients.hold("a client"):
    ...     clients.get()
    'a client'
    >>> clients.peek() is None
    True
    """

    def __init__(self, missing: Callable[[], Exception]) -> None:
        self._missing = missing
        self._values: list[T] = []

    def get(self) -> T:
        """Return what is open; raises the error that ``missing`` makes when nothing is."""
        if not self._values:
            raise self._missing()
        return self._values[-1]

    def peek(self) -> T | None:
        """Return what is open, or None."""
        return self._values[-1] if self._values else None

    @contextmanager
    def hold(self, value: T) -> Iterator[T]:
        """Fill the slot for the length of the block."""
        self._values.append(value)
        try:
            yield value
        finally:
            self._values.remove(value)
