"""Journal entries of tasks that never ran, written by the step that records ends."""

from __future__ import annotations

from collections.abc import Iterable

from vibetuner.redis.keys import JournalKeys
from vibetuner.tasks.attempt import Attempt, End
from vibetuner.tasks.observers import Observers
from vibetuner.tasks.observers.journal import LIMITS, JournalObserver, Limits
from vibetuner.tasks.run.finisher import Finisher
from vibetuner.tasks.run.outage import Outage
from vibetuner.tasks.worker import TaskWorker

__all__ = ["make_ended", "record"]


def make_ended(task_id: str, name: str, *, failed: bool = False, finished: int = 4) -> Attempt:
    """Return an attempt that has ended."""
    attempt = Attempt(task_id, "normal", queued=2, payload=b"p")
    attempt.fn_name, attempt.created = name, 1
    attempt.started, attempt.finished = 3, finished
    attempt.end = End.DONE
    if failed:
        attempt.end, attempt.error = End.FAILED, ValueError("no")
    return attempt


async def record(
    worker: TaskWorker, keys: JournalKeys, attempts: Iterable[Attempt], limits: Limits = LIMITS
) -> None:
    """Record ends with their entries, and trim the journal as a worker does."""
    client = worker.client
    observer = JournalObserver(client.functions, worker, keys, limits)
    finisher = Finisher(
        client, worker_id=worker.id, idle_ms=1000,
        observers=Observers([observer]), counters=worker.counters, outage=Outage(),
    )  # fmt: skip
    for attempt in attempts:
        finisher.add(attempt)
    await finisher.settled()
    await observer.write(())
