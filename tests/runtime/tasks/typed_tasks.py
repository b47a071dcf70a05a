"""Calls of tasks for mypy, which are never run (see test_types.py).

Every ``type: ignore`` stands for an error that must be there; strict mode reports unused ones.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from streaq.task import SyncRegisteredTask, Task

from vibetuner.context import Context
from vibetuner.tasks import WorkerDepends
from vibetuner.tasks.robust import robust_cron, robust_task
from vibetuner.tasks.worker import get_worker

worker = get_worker()


@worker.task(timeout=timedelta(minutes=5))
async def plain(account: str, context: Context = WorkerDepends()) -> int:
    return len(account)


@robust_task(max_retries=5, backoff_max=600, jitter=0.2, ttl=60, give_up_on=ValueError)
async def robust(account: str, *, days: int = 7) -> dict[str, int]:
    return {account: days}


@robust_task()
def in_a_thread(number: int) -> str:
    return str(number)


@robust_cron("0 3 * * *")
async def nightly() -> None: ...


async def use() -> None:
    assert_type(await robust("acme", days=3), dict[str, int])
    assert_type(in_a_thread(1), str)
    task = await robust.enqueue("acme", days=3)
    assert_type((await task.result(timeout=30)).result, dict[str, int])
    assert_type((await (await in_a_thread.enqueue(1)).result()).result, str)
    assert_type((await (await plain.enqueue("acme")).result()).result, int)
    await nightly.enqueue()
    once = await robust.enqueue("acme").start(delay=3).once("key", keep=timedelta(days=1))
    assert_type((await once.result()).result, dict[str, int])
    assert_type((await (await in_a_thread.enqueue(1).once("key")).result()).result, str)
    assert_type((await (await plain.enqueue("acme").once("key")).result()).result, int)

    within = await robust.enqueue("acme").within(object()).once("key")
    assert_type((await within.result()).result, dict[str, int])

    end = in_a_thread.enqueue(1).start(after=[robust.enqueue("acme"), plain.enqueue("acme"), "id"])
    assert_type((await (await end.within(object())).result()).result, str)
    await in_a_thread.enqueue(2).start(after=[robust.enqueue(name) for name in ("a", "b")])

    end.start(after=[3])  # type: ignore[list-item]
    robust.enqueue("acme").once(3)  # type: ignore[arg-type]
    robust.enqueue(3)  # type: ignore[arg-type]
    robust.enqueue("acme", days="3")  # type: ignore[arg-type]
    robust.enqueue()  # type: ignore[call-arg]
    robust.enqueue("acme", weeks=1)  # type: ignore[call-arg]
    in_a_thread.enqueue("1")  # type: ignore[arg-type]
    plain.enqueue(1)  # type: ignore[arg-type]
    nightly.enqueue(1)  # type: ignore[call-arg]
    robust_task(max_retries="3")  # type: ignore[arg-type]
    robust_task(on_failure=lambda name: None)  # type: ignore[arg-type]
    robust_task(retry_on=("ValueError",))  # type: ignore[arg-type]


def kinds(a: SyncRegisteredTask[[int], str], b: Task[[int], str]) -> None:
    assert_type(a.enqueue(1), Task[[int], str])
