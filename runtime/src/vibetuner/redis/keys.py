"""Every key and channel in Redis.

streaq's own begin with ``streaq:<queue>:``. All others begin with REDIS_KEY_PREFIX, which is
``<queue>:``, and each of them is trimmed or expires.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vibetuner.redis.url import hash_tag

MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS

#: The consumer group of a queue's streams.
GROUP = "workers"
#: A worker sends a heartbeat every two seconds; after this long without one it counts as lost.
LIVE_SECONDS = 15.0


class _Family:
    """Keys that differ in their last part only: ``keys.data("1a")``, ``keys.data("1b")``.

    Args:
        ours: begin with REDIS_KEY_PREFIX, not as streaq's keys.
    """

    def __init__(self, name: str, *, ours: bool = False) -> None:
        self._name = name
        self._ours = ours

    def __get__(self, keys: Any, _: object) -> Callable[[str], str]:
        start = keys.prefix if self._ours else f"{keys.queue}:"
        return lambda last: f"{start}{self._name}:{last}"


class Keys:
    """The names of all keys and channels of one queue.

    Args:
        prefix: REDIS_KEY_PREFIX, with its colon.
        queue_name: the queue of a worker that was made before the settings were known.

    >>> keys = Keys("shop:")
    >>> keys.stream("normal"), keys.data("1a"), keys.letters
    ('streaq:shop:queues:normal', 'streaq:shop:task:data:1a', 'shop:dead_letters')
    """

    def __init__(self, prefix: str, queue_name: str = "") -> None:
        queue = f"streaq:{queue_name or prefix.rstrip(':')}"
        letters = f"{prefix}dead_letters"
        self.prefix = prefix
        # The prefix of every key of streaq's; KEYS[1] of our functions.
        self.queue = queue
        # A name in the queue's slot, declared by functions that touch keys they don't declare.
        # While a Cluster node moves its slot away, it refuses a call that declares this name.
        # Without it, the call would start, and fail at the first key that has been moved.
        self.guard = queue
        # Marker: a claimed message was withdrawn within the last second.
        self.withdrawn = f"{queue}:withdrawn"
        # Hash: a queue's name -> when its stream was created, in milliseconds.
        self.made = f"{queue}:made"
        # Channel: the times at which newly delayed tasks are due.
        self.wakeups = f"{queue}:delayed"
        # Sorted set: the tasks that have a result, by when it expires.
        self.results = f"{queue}:index:results"
        # Set: the running tasks.
        self.running = f"{queue}:index:running"
        # Set: the tasks to be aborted; expires a year after the last one was added.
        self.aborted = f"{queue}:aborted"
        # Set: the tasks to be failed, because a task that they were to follow has failed.
        self.failing = f"{queue}:failing"
        # The key that a durable enqueue writes before it waits; expires after a second.
        self.durable = f"{queue}:durable"
        # Hash: the unique tasks that wait or run, by id; see lua/line.lua.
        self.unique = f"{queue}:unique"
        # Sorted set: the unique tasks in any line, by when they are due.
        self.in_line = f"{queue}:line"
        # Hash: a cron task's name -> its crontab.
        self.cron_tabs = f"{queue}:cron:jobs"
        # Hash: a repeated task's id -> the queue that it was enqueued in; not a key of streaq's.
        self.cron_queues = f"{queue}:cron:queues"
        # Sorted set: the cron tasks, by when they are due.
        self.cron_schedule = f"{queue}:cron:schedule"
        # Stream: the dead letters.
        self.letters = letters
        # Hash: a task's id -> its entry in the stream.
        self.letter_places = f"{letters}:places"
        # Sorted set: the ids of tasks with a letter, in order.
        self.letter_ids = f"{letters}:ids"
        # Hash: a fingerprint -> the group of its open letters.
        self.letter_groups = f"{letters}:groups"
        # Marker: the groups also hold the letters in MongoDB.
        self.letters_counted = f"{self.letter_groups}:counted"
        # Lock: a process counts the letters in MongoDB.
        self.letters_counting = f"{self.letters_counted}:lock"
        # Marker: the letters in MongoDB were counted a short time ago.
        self.letters_fresh = f"{self.letters_counted}:fresh"
        # The entry at which a recount of the groups goes on.
        self.letters_recounted = f"{self.letter_groups}:recount"
        # Hash: a task's id -> what was done with its letter.
        self.acted = f"{letters}:acted"
        # Channel: every event for browsers.
        self.topic = f"{prefix}sse"

    stream = _Family("queues")  # stream: the tasks of a queue that wait or run
    delayed = _Family("queues:delayed")  # sorted set: its delayed tasks, by when they are due
    scan = _Family("scan")  # where the next search of it for idle messages begins; for a minute
    answered = _Family("answered")  # the answer to a step of the finisher; for 30 to 300 seconds
    health = _Family("health")  # streaq's mark of a live worker
    data = _Family("task:data")  # the payload of a task
    message = _Family("task:message")  # where a task is that may expire: its message and its stream
    retry = _Family("task:retry")  # the number of a task's tries
    result = _Family("task:results")  # the result of a task
    blamed = _Family("task:blamed")  # the failed task that a task was to follow, and so fails
    failed = _Family("task:failed")  # marker: its result is a failure; kept as long as the result
    channel = _Family("channels")  # channel: the result of a task
    dependents = _Family("task:dependents")  # set: the tasks that wait for this one
    dependencies = _Family("task:dependencies")  # set: the tasks that this one waits for
    parts = _Family("task:parts")  # how many tasks it waited for at first, if several
    waits_for = _Family("task:queue")  # the priority of a task that waits for others
    previous = _Family("task:previous")  # the result of a task, for the task that follows it
    fallback = _Family("task:fallback")  # the error that a fallback is called with
    once = _Family("task:once")  # the task that was enqueued under an idempotency key, and its call
    keyed = _Family("task:keyed")  # the idempotency key of a task
    handed = _Family("task:handed")  # marker: this outbox row was handed on
    lost = _Family("task:lost")  # marker: the server had lost it, and its worker recorded its end
    lock = _Family("task:lock")  # the id of the running unique task of that name
    holder = _Family("task:unique")  # hash: the unique task of a group that waits or runs
    line = _Family("task:line")  # sorted set: the tasks that follow the holder, in order
    cron_data = _Family("cron:data")  # the payload of a cron task
    letters_of = _Family("dead_letters:of", ours=True)  # sorted set: a bug's open letters, in order
    act = _Family("dead_letters:acted", ours=True)  # the act on a letter that is kept elsewhere
    progress = _Family("progress", ours=True)  # hash: the progress of a task
    events = _Family("sse", ours=True)  # stream: the latest events of a channel
    revoked = _Family("debug:revoked", ours=True)  # marker: a revoked ticket for the debug pages

    @property
    def journal(self) -> JournalKeys:
        """The journal and the heartbeats."""
        return JournalKeys(self.prefix)

    @property
    def is_sharded(self) -> bool:
        """Return whether events use sharded pub/sub, which reaches only the queue's shard.

        If the prefix has a hash tag, all keys and the channel share one slot.

        >>> Keys("{shop}:").is_sharded, Keys("shop:").is_sharded
        (True, False)
        """
        return bool(hash_tag(self.prefix))


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
        journal:probe             written to find out whether the server takes writes
        journal:pulse             a number that moves when something happens
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.ended = f"{prefix}journal:ended"
        self.failed = f"{prefix}journal:ended:failed"
        self.payloads = f"{prefix}journal:payloads"
        self.ids = f"{prefix}journal:ids"
        self.names = f"{prefix}journal:names"
        self.workers = f"{prefix}journal:workers"
        self.cron = f"{prefix}journal:cron"
        self.queues = f"{prefix}journal:queues"
        self.probe = f"{prefix}journal:probe"
        self.pulse = f"{prefix}journal:pulse"

    of = _Family("journal:ended:of", ours=True)
    tries = _Family("journal:tries", ours=True)
    worker = _Family("journal:worker", ours=True)
    running = _Family("journal:running", ours=True)
    job = _Family("journal:job", ours=True)

    def minute(self, at: int) -> str:
        """The counts of the minute that ``at``, in milliseconds, lies in."""
        return f"{self.prefix}journal:minute:{at // MINUTE_MS}"

    def quarter(self, at: int) -> str:
        """The counts of the quarter of an hour that ``at``, in milliseconds, lies in."""
        return f"{self.prefix}journal:quarter:{at // QUARTER_MS}"
