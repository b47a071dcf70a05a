"""The tasks of a run: some succeed, some fail, and some kill their worker.

``ttl=None`` keeps results for ever, so that the ledger finds them. Tasks that run for long get many
tries, as each other task that kills their worker takes one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from chaos.journal import CHANNEL, QUEUES, note
from vibetuner.sse import broadcast
from vibetuner.tasks.progress import Progress
from vibetuner.tasks.robust import GiveUp, RetryLater, Unique, robust_cron, robust_task
from vibetuner.tasks.worker import get_worker

from .recorded import recorded

__all__ = [
    "clashing", "committed", "endless", "flaky", "hopeless", "keyed", "one_at_a_time",
    "perishable", "poisonous", "quick", "replacing", "sick", "skipping", "slow", "step", "telling",
    "threaded", "ticking", "tocking", "too_slow", "waiting",
]  # fmt: skip

TIMEOUT = 1
LONG_ENOUGH = 8


Run = Callable[..., Coroutine[Any, Any, Any]]

worker = get_worker()


@worker.middleware
def around(run: Run) -> Run:
    """Yield to the event loop before and after each task, also after one that is cancelled."""

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        try:
            return await run(*args, **kwargs)
        finally:
            await asyncio.sleep(0)

    return wrapped


@robust_task(max_retries=8, backoff_base=0.5, ttl=None)
async def quick() -> str:
    """End at once."""
    with recorded(quick):
        await asyncio.sleep(0.02)
    return "done"


@robust_task(max_retries=8, backoff_base=0.5, ttl=None)
async def committed(order: str) -> str:
    """Run for an order; enqueued within the transaction that stores it."""
    with recorded(committed):
        await asyncio.sleep(0.02)
    return order


@robust_task(max_retries=8, backoff_base=0.5, ttl=None)
async def keyed(event: str) -> str:
    """Run once, although it is enqueued several times under one key."""
    with recorded(keyed):
        await asyncio.sleep(0.02)
    return event


@robust_task(max_retries=8, backoff_base=0.5, ttl=None)
async def slow(seconds: float) -> float:
    """Run, usually for longer than the grace period."""
    with recorded(slow):
        await asyncio.sleep(seconds)
    return seconds


@robust_task(max_retries=8, backoff_base=0.5, ttl=None)
def threaded(seconds: float) -> float:
    """Block a thread, which can't be stopped."""
    with recorded(threaded):
        time.sleep(seconds)
    return seconds


@robust_task(max_retries=3, backoff_base=0.5, ttl=None)
async def hopeless(message: str) -> None:
    """Fail at every try."""
    with recorded(hopeless):
        await asyncio.sleep(0.05)
        raise ValueError(message)


@robust_task(max_retries=6, backoff_base=0.5, ttl=None)
async def flaky(good_from: int) -> int:
    """Fail, then succeed."""
    with recorded(flaky) as run:
        await asyncio.sleep(0.05)
        if run.tries < good_from:
            raise ConnectionError(f"try {run.tries} went wrong")
        return run.tries


@robust_task(max_retries=2, backoff_base=0.5, timeout=TIMEOUT, ttl=None)
async def too_slow() -> None:
    """Exceed the timeout at every try."""
    with recorded(too_slow):
        await asyncio.sleep(60)


@robust_task(max_retries=5, backoff_base=0.5, ttl=None)
async def sick(well_from: int) -> int:
    """Kill the worker at the first tries."""
    with recorded(sick) as run:
        await asyncio.sleep(0.1)
        if run.tries < well_from:
            _kill_this_worker()
        return run.tries


@robust_task(max_retries=2, backoff_base=0.5, ttl=None)
async def poisonous() -> None:
    """Kill the worker at every try."""
    with recorded(poisonous):
        await asyncio.sleep(0.1)
        _kill_this_worker()


@robust_task(max_retries=4, backoff_base=0.5, timeout=LONG_ENOUGH, unique=True, ttl=None)
async def one_at_a_time(seconds: float) -> float:
    """Run alone; a second one at the same time is a clash."""
    with recorded(one_at_a_time):
        await asyncio.sleep(seconds)
    return seconds


@robust_task(max_retries=4, backoff_base=0.5, expire=2, ttl=None)
async def perishable() -> None:
    """Run, unless it has waited for more than two seconds."""
    with recorded(perishable):
        await asyncio.sleep(0.02)


@robust_task(max_retries=8, backoff_base=0.5, ttl=None)
async def endless() -> None:
    """Run for long, until somebody aborts it."""
    with recorded(endless):
        await asyncio.sleep(20)


async def tell(_name: str, _task_id: str, _error: Exception) -> None:
    """Take some time, so that a worker is stopped or killed meanwhile."""
    await asyncio.sleep(0.5)


@robust_task(max_retries=4, backoff_base=0.5, ttl=None, on_failure=tell)
async def step(*_: str, fate: str = "done") -> str:
    """Run as part of a chain or a batch, or behind other tasks."""
    with recorded(step) as run:
        await _meet(fate, run.tries)
    return fate


@robust_task(
    max_retries=6, backoff_base=0.5, ttl=None, unique=Unique(by=("account",), clash="skip")
)
async def skipping(account: str, fate: str = "done") -> str:
    """Run once for several calls."""
    with recorded(skipping, group=f"skipping {account}") as run:
        await _meet(fate, run.tries)
    return fate


@robust_task(
    max_retries=6, backoff_base=0.5, ttl=None, unique=Unique(by=("account",), clash="wait")
)
async def waiting(account: str, fate: str = "done") -> str:
    """Run behind other calls for the account."""
    with recorded(waiting, group=f"waiting {account}") as run:
        await _meet(fate, run.tries)
    return fate


@robust_task(
    max_retries=6, backoff_base=0.5, ttl=None, unique=Unique(by=("account",), clash="replace")
)
async def replacing(account: str, fate: str = "done") -> str:
    """Run in place of earlier calls for the account."""
    with recorded(replacing, group=f"replacing {account}") as run:
        await _meet(fate, run.tries)
    return fate


@robust_task(
    max_retries=4, backoff_base=0.5, timeout=LONG_ENOUGH, ttl=None,
    unique=Unique(by=("account",), clash="fail"),
)  # fmt: skip
async def clashing(account: str, fate: str = "done") -> str:
    """Run, unless another call for the account runs."""
    with recorded(clashing, group=f"clashing {account}") as run:
        await _meet(fate, run.tries)
    return fate


@robust_task(max_retries=8, backoff_base=0.5, ttl=None)
async def telling(events: int) -> None:
    """Send events to the browsers, and report progress."""
    with recorded(telling):
        progress = Progress(total=events)
        for number in range(events):
            event = await broadcast(CHANNEL, "told", number)
            note("sent", channel=CHANNEL, event=event)
            await progress.advance()
            await asyncio.sleep(0.05)


@robust_cron("* * * * *", max_retries=4, backoff_base=0.5, ttl=None)
async def ticking() -> None:
    """Run every minute, and whenever the producer enqueues it."""
    with recorded(ticking):
        await asyncio.sleep(0.5)


@robust_cron("* * * * *", max_retries=4, backoff_base=0.5, ttl=None, queue=QUEUES[0])
async def tocking() -> None:
    """Run every minute, from another queue."""
    with recorded(tocking):
        await asyncio.sleep(0.5)


async def _meet(fate: str, tries: int) -> None:
    await asyncio.sleep({"done": 0.05, "long": 4}.get(fate, 0.3))
    if fate == "fail":
        raise ValueError(fate)
    if fate == "give up":
        raise GiveUp(fate)
    if fate == "later" and tries == 1:
        raise RetryLater(fate, after=timedelta(seconds=0.7))
    if fate == "flaky" and tries == 1:
        raise ConnectionError(fate)


def _kill_this_worker() -> None:
    note("suicide")
    os.kill(os.getpid(), signal.SIGKILL)
