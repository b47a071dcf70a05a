"""Every key and channel in Redis.

streaq's own begin with ``streaq:<queue>:``. All others begin with REDIS_KEY_PREFIX, which is
``<queue>:``, and each of them is trimmed or expires.
"""

from __future__ import annotations

from dataclasses import dataclass

from vibetuner.redis.url import hash_tag

__all__ = ["GROUP", "MINUTE_MS", "QUARTER_MS", "JournalKeys", "Keys"]

MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS

#: The consumer group of a queue's streams.
GROUP = "workers"


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys and channels of one queue.

    Args:
        prefix: REDIS_KEY_PREFIX, with its colon.
        queue_name: the queue of a worker that was made before the settings were known.

    >>> keys = Keys("shop:")
    >>> keys.stream("normal"), keys.data("1a"), keys.letters
    ('streaq:shop:queues:normal', 'streaq:shop:task:data:1a', 'shop:dead_letters')
    """

    prefix: str
    queue_name: str = ""

    @property
    def queue(self) -> str:
        """The prefix of every key of streaq's; KEYS[1] of our functions."""
        return f"streaq:{self.queue_name or self.prefix.rstrip(':')}"

    @property
    def guard(self) -> str:
        """A name in the queue's slot, declared by functions that touch keys they don't declare.

        While a Cluster node moves its slot away, it refuses a call that declares this name. Without
        it, the call would start, and fail at the first key that has been moved.
        """
        return self.queue

    def stream(self, priority: str) -> str:
        """Stream: the tasks that wait or run."""
        return f"{self.queue}:queues:{priority}"

    def delayed(self, priority: str) -> str:
        """Sorted set: the delayed tasks, by the time at which they are due."""
        return f"{self.queue}:queues:delayed:{priority}"

    def scan(self, priority: str) -> str:
        """The message at which the next search for idle ones begins; expires after a minute."""
        return f"{self.queue}:scan:{priority}"

    def answered(self, step: str) -> str:
        """The answer to a step of the finisher, in case it is sent again; for half a minute."""
        return f"{self.queue}:answered:{step}"

    @property
    def withdrawn(self) -> str:
        """Marker: a claimed message was withdrawn within the last second."""
        return f"{self.queue}:withdrawn"

    def health(self, worker_id: str) -> str:
        """streaq's mark of a live worker."""
        return f"{self.queue}:health:{worker_id}"

    @property
    def wakeups(self) -> str:
        """Channel: the times at which newly delayed tasks are due."""
        return f"{self.queue}:delayed"

    def data(self, task_id: str) -> str:
        """The payload of a task."""
        return f"{self.queue}:task:data:{task_id}"

    def retry(self, task_id: str) -> str:
        """The number of a task's tries."""
        return f"{self.queue}:task:retry:{task_id}"

    def result(self, task_id: str) -> str:
        """The result of a task."""
        return f"{self.queue}:task:results:{task_id}"

    @property
    def results(self) -> str:
        """Sorted set: the tasks that have a result, by when it expires."""
        return f"{self.queue}:index:results"

    @property
    def running(self) -> str:
        """Set: the running tasks."""
        return f"{self.queue}:index:running"

    @property
    def aborted(self) -> str:
        """Set: the tasks to be aborted."""
        return f"{self.queue}:aborted"

    def channel(self, task_id: str) -> str:
        """Channel: the result of a task."""
        return f"{self.queue}:channels:{task_id}"

    def dependents(self, task_id: str) -> str:
        """Set: the tasks that wait for this one."""
        return f"{self.queue}:task:dependents:{task_id}"

    def dependencies(self, task_id: str) -> str:
        """Set: the tasks that this one waits for."""
        return f"{self.queue}:task:dependencies:{task_id}"

    def parts(self, task_id: str) -> str:
        """String: the number of tasks that this one waited for at first, if there were several."""
        return f"{self.queue}:task:parts:{task_id}"

    def waits_for(self, task_id: str) -> str:
        """The priority of a task that waits for others."""
        return f"{self.queue}:task:queue:{task_id}"

    def previous(self, task_id: str) -> str:
        """The result of a task, for the task that follows it."""
        return f"{self.queue}:task:previous:{task_id}"

    def fallback(self, task_id: str) -> str:
        """The error that a fallback is called with."""
        return f"{self.queue}:task:fallback:{task_id}"

    def once(self, key: str) -> str:
        """The task that was enqueued under an idempotency key, and its call."""
        return f"{self.queue}:task:once:{key}"

    def keyed(self, task_id: str) -> str:
        """The idempotency key of a task."""
        return f"{self.queue}:task:keyed:{task_id}"

    def handed(self, task_id: str) -> str:
        """Marker: this outbox row was handed on."""
        return f"{self.queue}:task:handed:{task_id}"

    @property
    def durable(self) -> str:
        """The key that a durable enqueue writes before it waits; expires after a second."""
        return f"{self.queue}:durable"

    def lock(self, name: str) -> str:
        """The id of the running unique task of that name."""
        return f"{self.queue}:task:lock:{name}"

    @property
    def unique(self) -> str:
        """Hash: the unique tasks that wait or run, by id; see lua/line.lua."""
        return f"{self.queue}:unique"

    def holder(self, group: str) -> str:
        """Hash: the unique task of a group that waits or runs."""
        return f"{self.queue}:task:unique:{group}"

    def line(self, group: str) -> str:
        """Sorted set: the unique tasks that follow the holder of their group, in order."""
        return f"{self.queue}:task:line:{group}"

    @property
    def in_line(self) -> str:
        """Sorted set: the unique tasks in any line, by when they are due."""
        return f"{self.queue}:line"

    @property
    def cron_tabs(self) -> str:
        """Hash: a cron task's name -> its crontab."""
        return f"{self.queue}:cron:jobs"

    @property
    def cron_queues(self) -> str:
        """Hash: a repeated task's id -> the queue that it was enqueued in; not a key of
        streaq's."""
        return f"{self.queue}:cron:queues"

    @property
    def cron_schedule(self) -> str:
        """Sorted set: the cron tasks, by when they are due."""
        return f"{self.queue}:cron:schedule"

    def cron_data(self, name: str) -> str:
        """The payload of a cron task."""
        return f"{self.queue}:cron:data:{name}"

    @property
    def letters(self) -> str:
        """Stream: the dead letters."""
        return f"{self.prefix}dead_letters"

    @property
    def letter_places(self) -> str:
        """Hash: a task's id -> its entry in :attr:`letters`."""
        return f"{self.letters}:places"

    @property
    def letter_ids(self) -> str:
        """Sorted set: the ids of tasks with a letter, in order."""
        return f"{self.letters}:ids"

    @property
    def letter_groups(self) -> str:
        """Hash: a fingerprint -> the group of its open letters."""
        return f"{self.letters}:groups"

    @property
    def letters_counted(self) -> str:
        """Marker: the groups also hold the letters in MongoDB."""
        return f"{self.letter_groups}:counted"

    @property
    def letters_counting(self) -> str:
        """Lock: a process counts the letters in MongoDB."""
        return f"{self.letters_counted}:lock"

    @property
    def letters_fresh(self) -> str:
        """Marker: the letters in MongoDB were counted a short time ago."""
        return f"{self.letters_counted}:fresh"

    @property
    def letters_recounted(self) -> str:
        """The entry at which a recount of the groups goes on."""
        return f"{self.letter_groups}:recount"

    def letters_of(self, fingerprint: str) -> str:
        """Sorted set: the entries of the open letters of one bug, in order."""
        return f"{self.letters}:of:{fingerprint}"

    @property
    def acted(self) -> str:
        """Hash: a task's id -> what was done with its letter."""
        return f"{self.letters}:acted"

    def act(self, task_id: str) -> str:
        """The act on a letter that is kept elsewhere."""
        return f"{self.acted}:{task_id}"

    @property
    def journal(self) -> JournalKeys:
        """The journal and the heartbeats."""
        return JournalKeys(self.prefix)

    def progress(self, task_id: str) -> str:
        """Hash: the progress of a task."""
        return f"{self.prefix}progress:{task_id}"

    @property
    def topic(self) -> str:
        """Channel: every event for browsers."""
        return f"{self.prefix}sse"

    @property
    def is_sharded(self) -> bool:
        """Return whether events use sharded pub/sub, which reaches only the queue's shard.

        If the prefix has a hash tag, all keys and the channel share one slot.

        >>> Keys("{shop}:").is_sharded, Keys("shop:").is_sharded
        (True, False)
        """
        return bool(hash_tag(self.prefix))

    def events(self, channel: str) -> str:
        """Stream: the latest events of a channel."""
        return f"{self.topic}:{channel}"

    def revoked(self, ticket_id: str) -> str:
        """Marker: a ticket for the debug pages that was revoked."""
        return f"{self.prefix}debug:revoked:{ticket_id}"


@dataclass(frozen=True, slots=True)
class JournalKeys:
    """The keys of one queue's journal.

    ::

        journal:ended             stream: every task that ended, the oldest trimmed away
        journal:ended:of:<name>   stream: the same entry ids, of one task
        journal:ended:failed      stream: the same entry ids, of those that did not succeed
        journal:payloads          stream: the same entry ids, with what was enqueued
        journal:ids               hash: a task's id -> its entry
        journal:tries:<id>        list: the failed tries of a task that is tried again
        journal:names             sorted set: the tasks' names, by when one of them last ended

        journal:workers           sorted set: the workers' ids, by their last heartbeat
        journal:worker:<id>       a worker's latest heartbeat
        journal:running:<id>      hash: what a worker runs
        journal:minute:<n>        hash: the counts of a minute
        journal:quarter:<n>       hash: the counts of a quarter of an hour
        journal:cron              hash: a cron task -> when it was first seen
        journal:queues            sorted set: the project's queues, by their rank
        journal:job:<id>          a bulk act on dead letters, from the debug pages
        journal:pulse             a number that moves when something happens
    """

    prefix: str

    @property
    def ended(self) -> str:
        """The tasks that ended."""
        return f"{self.prefix}journal:ended"

    def of(self, name: str) -> str:
        """The ended tasks of one name."""
        return f"{self.ended}:of:{name}"

    @property
    def failed(self) -> str:
        """The ended tasks that did not succeed."""
        return f"{self.ended}:failed"

    @property
    def payloads(self) -> str:
        """The payloads of the ended tasks."""
        return f"{self.prefix}journal:payloads"

    @property
    def ids(self) -> str:
        """Task id -> entry."""
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
        """The workers, by their last heartbeat."""
        return f"{self.prefix}journal:workers"

    def worker(self, worker_id: str) -> str:
        """A worker's latest heartbeat."""
        return f"{self.prefix}journal:worker:{worker_id}"

    def running(self, worker_id: str) -> str:
        """The tasks that a worker runs."""
        return f"{self.prefix}journal:running:{worker_id}"

    def minute(self, at: int) -> str:
        """The counts of the minute that ``at``, in milliseconds, lies in."""
        return f"{self.prefix}journal:minute:{at // MINUTE_MS}"

    def quarter(self, at: int) -> str:
        """The counts of the quarter of an hour that ``at``, in milliseconds, lies in."""
        return f"{self.prefix}journal:quarter:{at // QUARTER_MS}"

    @property
    def cron(self) -> str:
        """The time at which each cron task was first seen."""
        return f"{self.prefix}journal:cron"

    @property
    def queues(self) -> str:
        """The project's queues."""
        return f"{self.prefix}journal:queues"

    def job(self, job_id: str) -> str:
        """A bulk act on dead letters that somebody began on the debug pages."""
        return f"{self.prefix}journal:job:{job_id}"

    @property
    def probe(self) -> str:
        """A key that is written to find out whether the server takes writes."""
        return f"{self.prefix}journal:probe"

    @property
    def pulse(self) -> str:
        """A number that changes when something happens."""
        return f"{self.prefix}journal:pulse"
