"""Those who hear how attempts go: the log, the journal, progress, and the dead letters.

They know nothing of each other, and nothing of how messages are claimed and ends are recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vibetuner.tasks.attempt import Attempt

__all__ = ["Observer", "Observers"]

logger = logging.getLogger(__name__)


class Observer:
    """Hears of attempts; none of the methods may wait for anything."""

    def started(self, attempt: Attempt) -> None:
        """Hear that a function is about to be called."""

    def ending(self, attempt: Attempt) -> None:
        """Add to what is recorded of an attempt that has been judged."""

    def ended(self, attempt: Attempt) -> None:
        """Hear that the end of an attempt is recorded; a superseded one has none."""


class Observers:
    """Tells several observers; what one of them raises is logged and changes nothing else."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._started = _bound(observers, "started")
        self._ending = _bound(observers, "ending")
        self._ended = _bound(observers, "ended")

    def started(self, attempt: Attempt) -> None:
        """Tell that a function is about to be called."""
        _tell(self._started, attempt)

    def ending(self, attempt: Attempt) -> None:
        """Tell that an attempt has been judged and is about to be recorded."""
        _tell(self._ending, attempt)

    def ended(self, attempt: Attempt) -> None:
        """Tell that the end of an attempt is recorded."""
        _tell(self._ended, attempt)


def _bound(observers: Sequence[Observer], name: str) -> list[Callable[[Attempt], None]]:
    """The methods of those that have one of their own."""
    plain = getattr(Observer, name)
    return [getattr(one, name) for one in observers if getattr(type(one), name) is not plain]


def _tell(methods: list[Callable[[Attempt], None]], attempt: Attempt) -> None:
    for method in methods:
        try:
            method(attempt)
        except Exception:
            name = type(method.__self__).__name__  # type: ignore[attr-defined]
            logger.exception("%s could not note %s", name, attempt.fn_name)
