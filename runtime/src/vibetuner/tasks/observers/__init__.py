"""Observers of attempts: the log, the journal, progress, dead letters and hooks.

An observer knows neither the others nor how messages are claimed and ends are recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from vibetuner.tasks.attempt import Attempt

logger = logging.getLogger(__name__)


class Observer:
    """Observes attempts; none of its methods may block or wait."""

    def started(self, attempt: Attempt) -> None:
        """Called when a function is about to be called."""

    def ending(self, attempt: Attempt) -> None:
        """Called when an attempt has been judged; may add to the record of its end."""

    def ended(self, attempt: Attempt) -> None:
        """Called when the end of an attempt is recorded; a superseded attempt has none."""


class Observers:
    """Calls several observers; an exception of one is logged and changes nothing else.

    It has the methods of :class:`Observer`; each calls the observers that override it.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.started = _to_all(observers, "started")
        self.ending = _to_all(observers, "ending")
        self.ended = _to_all(observers, "ended")


def _to_all(observers: Sequence[Observer], name: str) -> Callable[[Attempt], None]:
    plain = getattr(Observer, name)
    methods = [getattr(one, name) for one in observers if getattr(type(one), name) is not plain]

    def call_each(attempt: Attempt) -> None:
        for method in methods:
            try:
                method(attempt)
            except BaseException:
                about = type(method.__self__).__name__, attempt.fn_name
                logger.exception("%s failed to observe %s", *about)

    return call_each
