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
    """Tells several observers; what one of them raises is logged and changes nothing else.

    It has the methods of :class:`Observer`, each of which calls those observers that have one of
    their own.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.started = _to_all(observers, "started")
        self.ending = _to_all(observers, "ending")
        self.ended = _to_all(observers, "ended")


def _to_all(observers: Sequence[Observer], name: str) -> Callable[[Attempt], None]:
    plain = getattr(Observer, name)
    methods = [getattr(one, name) for one in observers if getattr(type(one), name) is not plain]

    def tell(attempt: Attempt) -> None:
        for method in methods:
            try:
                method(attempt)
            except Exception:
                about = type(method.__self__).__name__, attempt.fn_name
                logger.exception("%s could not note %s", *about)

    return tell
