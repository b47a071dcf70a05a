"""How a worker ends: nothing new begins, and what it can't finish is another's at no cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from anyio import TASK_STATUS_IGNORED, CancelScope, ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream
from streaq.constants import REDIS_GROUP
from streaq.types import StreamMessage

from vibetuner.logs import current_task
from vibetuner.tasks.fast import FastWorker

__all__ = ["StoppableWorker"]


class StoppableWorker(FastWorker):
    """A worker that can be stopped, by a signal or :meth:`stop`, and be run again."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._run_scope: CancelScope | None = None
        self.own_middlewares.append(self._begin_nothing_late)

    async def run_async(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run tasks until a signal or a cancellation ends it."""
        self._forget_last_run()
        await super().run_async(task_status=task_status)

    def stop(self) -> None:
        """End :meth:`run_async` as a signal does: nothing new begins, what runs is handed back."""
        if self._run_scope is not None:
            self._run_scope.cancel("stop() was called")

    async def signal_handler(self, scope: CancelScope) -> None:
        """Wait for SIGINT or SIGTERM; remembers what they end, for :meth:`stop`."""
        self._run_scope = scope
        if self.handle_signals:
            await super().signal_handler(scope)

    async def run_consumers(
        self, receive: MemoryObjectReceiveStream[StreamMessage], *args: Any, **kwargs: Any
    ) -> None:
        """Run the consumers; at the end hand back at once what none of them has begun."""
        with receive:
            try:
                await super().run_consumers(receive, *args, **kwargs)
            finally:
                with CancelScope(shield=True):
                    await self._hand_back(receive)

    def may_start(self) -> bool:
        """Whether no stop was asked for."""
        return self._run_scope is None or not self._run_scope.cancel_called

    def _begin_nothing_late(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """A middleware: once a stop was asked for, what has not begun is handed back at no cost."""

        async def begin(*args: Any, **kwargs: Any) -> Any:
            if not self.may_start():
                # To the engine a deadline that was moved means the end of the grace period.
                self._cancel_scopes[current_task.get() or ""].deadline = -math.inf
                await checkpoint()
            return await run(*args, **kwargs)

        return begin

    async def _hand_back(self, receive: MemoryObjectReceiveStream[StreamMessage]) -> None:
        """Make messages that were fetched and not begun available to other workers at once."""
        waiting: defaultdict[str, list[str]] = defaultdict(list)
        with suppress(WouldBlock, EndOfStream, ClosedResourceError):
            while True:
                message = receive.receive_nowait()
                waiting[self.stream_key + message.priority].append(message.message_id)
        for stream, ids in waiting.items():
            await self.redis.xclaim(
                stream, REDIS_GROUP, self.id, 0, ids, justid=True, idle=self.idle_timeout
            )

    def _forget_last_run(self) -> None:
        self._run_scope = None
        self._count = 0
        self._running = self._stream_empty = False
        self._running_tasks.clear()
        self._cancel_scopes.clear()
