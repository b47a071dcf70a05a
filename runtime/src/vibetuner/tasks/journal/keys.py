"""The keys of the journal; all of them start with REDIS_KEY_PREFIX, and none grows for ever."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MINUTE_MS", "QUARTER_MS", "Keys"]

MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Keys:
    """Where things are written, for one queue.

    ::

        journal:ended             stream: every task that ended, the oldest trimmed away
        journal:ended:of:<name>   stream: the same entry ids, of one task
        journal:ended:failed      stream: the same entry ids, of those that did not succeed
        journal:payloads          stream: the same entry ids, with what was enqueued
        journal:ids               hash: a task's id -> its entry
        journal:tries:<id>        list: the failed tries of a task that is tried again
        journal:names             sorted set: the tasks' names, by when one of them last ended
        journal:workers           sorted set: the workers' ids, by their last beat
        journal:worker:<id>       what a worker says of itself
        journal:running:<id>      hash: what a worker runs
        journal:minute:<n>        hash: the counts of a minute
        journal:quarter:<n>       hash: the counts of a quarter of an hour
        journal:cron              hash: a cron task -> when it was first seen
        journal:pulse             a number that moves when something happens
    """

    prefix: str

    @property
    def ended(self) -> str:
        """Every task that ended."""
        return f"{self.prefix}journal:ended"

    def of(self, name: str) -> str:
        """Those of one task."""
        return f"{self.ended}:of:{name}"

    @property
    def failed(self) -> str:
        """Those that did not succeed."""
        return f"{self.ended}:failed"

    @property
    def payloads(self) -> str:
        """What was enqueued."""
        return f"{self.prefix}journal:payloads"

    @property
    def ids(self) -> str:
        """From a task's id to its entry."""
        return f"{self.prefix}journal:ids"

    def tries(self, task_id: str) -> str:
        """The failed tries of a task."""
        return f"{self.prefix}journal:tries:{task_id}"

    @property
    def names(self) -> str:
        """The tasks' names."""
        return f"{self.prefix}journal:names"

    @property
    def workers(self) -> str:
        """The workers by their last beat."""
        return f"{self.prefix}journal:workers"

    def worker(self, worker_id: str) -> str:
        """What a worker says of itself."""
        return f"{self.prefix}journal:worker:{worker_id}"

    def running(self, worker_id: str) -> str:
        """What a worker runs."""
        return f"{self.prefix}journal:running:{worker_id}"

    def minute(self, at: int) -> str:
        """The counts of the minute that ``at``, in milliseconds, lies in."""
        return f"{self.prefix}journal:minute:{at // MINUTE_MS}"

    def quarter(self, at: int) -> str:
        """The counts of the quarter of an hour that ``at``, in milliseconds, lies in."""
        return f"{self.prefix}journal:quarter:{at // QUARTER_MS}"

    @property
    def cron(self) -> str:
        """When each cron task was first seen."""
        return f"{self.prefix}journal:cron"

    @property
    def pulse(self) -> str:
        """A number that moves when something happens."""
        return f"{self.prefix}journal:pulse"
