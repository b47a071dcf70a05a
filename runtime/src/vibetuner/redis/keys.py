"""Every key and channel in Redis.

streaq's own begin with ``streaq:<queue>:``. All others begin with REDIS_KEY_PREFIX, which is
``<queue>:``, and each of them is trimmed or expires.
"""

from __future__ import annotations

from vibetuner.redis.url import hash_tag

MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS

#: The consumer group of a queue's streams.
GROUP = "workers"
#: A worker sends a heartbeat every two seconds; after this long without one it counts as lost.
LIVE_SECONDS = 15.0


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
        # Set: the tasks to be aborted; expires a week after the last one was added.
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

    def health(self, worker_id: str) -> str:
        """streaq's mark of a live worker."""
        return f"{self.queue}:health:{worker_id}"

    def data(self, task_id: str) -> str:
        """The payload of a task."""
        return f"{self.queue}:task:data:{task_id}"

    def retry(self, task_id: str) -> str:
        """The number of a task's tries."""
        return f"{self.queue}:task:retry:{task_id}"

    def result(self, task_id: str) -> str:
        """The result of a task."""
        return f"{self.queue}:task:results:{task_id}"

    def blamed(self, task_id: str) -> str:
        """Return the key with the failed task that a task was to follow, and so fails."""
        return f"{self.queue}:task:blamed:{task_id}"

    def failed(self, task_id: str) -> str:
        """Marker: the result of a task is a failure; kept as long as the result."""
        return f"{self.queue}:task:failed:{task_id}"

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

    def lost(self, task_id: str) -> str:
        """Marker: the server had lost this task, and its worker has recorded its end."""
        return f"{self.queue}:task:lost:{task_id}"

    def lock(self, name: str) -> str:
        """The id of the running unique task of that name."""
        return f"{self.queue}:task:lock:{name}"

    def holder(self, group: str) -> str:
        """Hash: the unique task of a group that waits or runs."""
        return f"{self.queue}:task:unique:{group}"

    def line(self, group: str) -> str:
        """Sorted set: the unique tasks that follow the holder of their group, in order."""
        return f"{self.queue}:task:line:{group}"

    def cron_data(self, name: str) -> str:
        """The payload of a cron task."""
        return f"{self.queue}:cron:data:{name}"

    def letters_of(self, fingerprint: str) -> str:
        """Sorted set: the entries of the open letters of one bug, in order."""
        return f"{self.letters}:of:{fingerprint}"

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

    def of(self, name: str) -> str:
        """The ended tasks of one name."""
        return f"{self.ended}:of:{name}"

    def tries(self, task_id: str) -> str:
        """The failed tries of a task."""
        return f"{self.prefix}journal:tries:{task_id}"

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

    def job(self, job_id: str) -> str:
        """A bulk act on dead letters that somebody began on the debug pages."""
        return f"{self.prefix}journal:job:{job_id}"
