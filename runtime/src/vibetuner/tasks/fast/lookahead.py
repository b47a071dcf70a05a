"""How many tasks to have at hand beyond the free slots."""

from __future__ import annotations

__all__ = ["Lookahead"]

# Shorter spans say too little.
SPAN_SECONDS = 0.02
WEIGHT = 0.25
# Tasks end in bunches, and each bunch should find the next one here.
MARGIN = 8
MOST_PER_SLOT = 2


class Lookahead:
    """Some times as many tasks as end while the server is asked for the next, as was measured.

    Long tasks need none, and whoever needs none holds nothing that another worker could run.

    >>> ahead = Lookahead(slots=32, now=0.0)
    >>> for _ in range(100):
    ...     ahead.one_ended()
    >>> ahead.answered(asked=0.097, now=0.1)
    >>> ahead.count(0.1), ahead.count(5.1)
    (24, 0)
    """

    def __init__(self, *, slots: int, now: float) -> None:
        self._most = MOST_PER_SLOT * slots
        self._ended = 0
        self._since = now
        self._rate = 0.0
        self._wait = 0.0

    def one_ended(self) -> None:
        """A slot has become free."""
        self._ended += 1

    def answered(self, *, asked: float, now: float) -> None:
        """The server has answered a question of that moment, in seconds."""
        wait = now - asked
        self._wait = wait if not self._wait else self._wait + WEIGHT * (wait - self._wait)
        self.count(now)

    def count(self, now: float) -> int:
        """How many, by now."""
        span = now - self._since
        if span >= SPAN_SECONDS:
            self._rate, self._ended, self._since = self._ended / span, 0, now
        return min(self._most, round(MARGIN * self._rate * self._wait))
