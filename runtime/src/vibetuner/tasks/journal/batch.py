"""What a worker has to tell the journal, until it is written; nothing here talks to anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vibetuner.redis.keys import MINUTE_MS
from vibetuner.tasks.journal.entry import Beat, Ended, FailedTry, Started

__all__ = ["Batch"]

MOST_REMEMBERED = 20_000


@dataclass(slots=True)
class Batch:
    """What has happened since the last one.

    Args:
        worker: who tells; empty for one that is no worker.
        ended: tasks that ended, with what was enqueued, and with a traceback where one is worth it.
        started: tasks that run now.
        stopped: ids of tasks that do not run any more.
        tries: failed tries by the task's id.
        beat: what the worker says of itself, if it is time.
        leaving: whether the worker stops as planned.
        crons: names of the worker's cron tasks.
    """

    worker: str = ""
    ended: list[tuple[Ended, bytes, str]] = field(default_factory=list)
    started: dict[str, Started] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    tries: list[tuple[str, FailedTry]] = field(default_factory=list)
    beat: Beat | None = None
    leaving: bool = False
    crons: tuple[str, ...] = ()
    minutes: dict[int, Counter[str]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        happened = self.ended or self.started or self.stopped or self.tries
        return not (happened or self.beat or self.leaving)

    def counts(self, at: int) -> Counter[str]:
        """What is counted in the minute of this moment, to be added to."""
        minute = at // MINUTE_MS * MINUTE_MS
        if minute not in self.minutes:
            self.minutes[minute] = Counter()
        return self.minutes[minute]

    def begin(self, one: Started) -> None:
        """A try begins."""
        self.started[one.task_id] = one

    def stop(self, task_id: str) -> None:
        """A try has ended; what began in this same batch never stands among those that run."""
        if self.started.pop(task_id, None) is None:
            self.stopped.append(task_id)

    def end(self, ended: Ended, payload: bytes, trace: str) -> None:
        """A task has ended."""
        self.ended.append((ended, payload, trace))
        self.counts(ended.finished)[ended.outcome.value] += 1
        self._forget_the_oldest()

    def fail(self, task_id: str, one: FailedTry) -> None:
        """A try has failed, and there will be another."""
        self.tries.append((task_id, one))
        self.counts(one.finished)["retried"] += 1
        self._forget_the_oldest()

    def add(self, new: Batch, running: dict[str, Started]) -> None:
        """Go on with what has happened since this one could not be written.

        Args:
            new: what came after it.
            running: what runs by now.
        """
        self.beat, self.leaving = new.beat, new.leaving
        self.ended += new.ended
        self.stopped += new.stopped
        self.tries += new.tries
        self.started = dict(running)
        for minute, counts in new.minutes.items():
            self.minutes.setdefault(minute, Counter()).update(counts)
        self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        for remembered in (self.ended, self.tries):
            if len(remembered) > MOST_REMEMBERED:
                del remembered[: -MOST_REMEMBERED // 2]
