"""Asks that a task be stopped."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from anyio import move_on_after
from streaq.constants import REDIS_DEPENDENCIES, REDIS_DEPENDENTS
from streaq.types import Streaq, StreaqCancelled
from streaq.utils import to_seconds

if TYPE_CHECKING:
    from vibetuner.tasks.fast.queue import FastQueue

__all__ = ["Abort"]


class Abort:
    """One request, in the engine's keys: its mark, and what that means for a delayed task."""

    def __init__(self, worker: FastQueue, task_id: str) -> None:
        self._worker = worker
        self._task_id = task_id

    async def ask(
        self,
        message: asyncio.Future[bytes],
        timeout: timedelta | int | None,  # noqa: ASYNC109 - the engine's own parameter
    ) -> bool:
        """Whether the task is stopped; ``message`` brings its result, if there is none yet."""
        worker, task_id = self._worker, self._task_id
        async with worker.redis.pipeline(transaction=True) as pipe:
            result = pipe.get(worker.results_key + task_id)
            payload = pipe.get(worker.task_key + task_id)
            pipe.sadd(worker._abort_key, [task_id])  # noqa: SLF001 - the engine's key
            delayed = [pipe.zrem(worker.queue_key + p, [task_id]) for p in worker.priorities]
        if any([await removed for removed in delayed]):
            await self._drop_delayed(await payload)
            return True
        if await result or (timeout is not None and not timeout):
            return False
        with move_on_after(to_seconds(timeout)):
            data = await worker.deserialize(await message)
            return not data["s"] and isinstance(data["r"], StreaqCancelled)
        return False

    async def _drop_delayed(self, payload: Any) -> None:
        worker, task_id = self._worker, self._task_id
        otherwise = (await worker.deserialize(payload)).get("O") if payload else None
        async with worker.redis.pipeline(transaction=True) as pipe:
            pipe.delete([worker.task_key + task_id])
            pipe.srem(worker._abort_key, [task_id])  # noqa: SLF001 - as above
            failing = Streaq(pipe).fail_dependents(
                worker.prefix + REDIS_DEPENDENTS,
                worker.prefix + REDIS_DEPENDENCIES,
                task_id,
                otherwise or "",
            )
        if (failed := await failing) or otherwise:
            await worker.fail_task_dependents(failed, otherwise)
