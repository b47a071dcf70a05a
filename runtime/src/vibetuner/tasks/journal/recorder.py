"""The worker's hand in the journal: remembers what happens, and writes it down in batches."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec

from anyio import CancelScope, create_task_group, move_on_after, sleep
from coredis.exceptions import RedisError
from streaq import TaskContext
from streaq.types import StreaqCancelled

from vibetuner import __version__
from vibetuner.config import get_settings
from vibetuner.errors import first_line
from vibetuner.project import code_digest, find_root, project_info
from vibetuner.tasks.fast.queue import FastQueue
from vibetuner.tasks.journal.batch import Batch
from vibetuner.tasks.journal.entry import Beat, Ended, FailedTry, Outcome, Started, bucket
from vibetuner.tasks.journal.write import write
from vibetuner.tasks.letters.plain import plain_text, plain_traceback
from vibetuner.tasks.try_end import TryEnd

__all__ = ["BEAT_SECONDS", "Recorder", "payload_of_run"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")

BEAT_SECONDS = 2.0
WRITE_SECONDS = 0.25
LEAVE_SECONDS = 2.0
LONGEST_ERROR = 200
LONGEST_TRACEBACK = 4000
LARGEST_PAYLOAD = 4096

# What was enqueued, as it was stored, of the task that runs; None until it is read.
payload_of_run: ContextVar[bytes | None] = ContextVar("payload_of_run")


def _harmless(record: Callable[P, None]) -> Callable[P, None]:
    """What can't be recorded is missing in the journal, and hurts nothing else."""

    @wraps(record)
    def try_to_record(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            record(*args, **kwargs)
        except Exception:
            logger.exception("the journal misses a task: %s failed", record.__name__)

    return try_to_record


class Recorder:
    """Remembers what happens to one worker's tasks.

    To remember costs a task some microseconds; what is remembered goes to Redis in one command
    four times a second. What Redis does not take waits there, the newest of it. The journal is
    for people to look at: the engine's own keys stay the truth.
    """

    def __init__(self, worker: FastQueue) -> None:
        self._worker = worker
        self._batch = Batch(worker.id)
        self._running: dict[str, Started] = {}
        self._reasons: dict[str, str] = {}
        self._born = _now()
        self._about: dict[str, Any] = {}

    @_harmless
    def started(self, run: TaskContext, queued: int) -> None:
        """A try begins."""
        one = Started(run.task_id, run.fn_name, run.tries, _now(), queued)
        self._running[one.task_id] = one
        self._batch.begin(one)

    @_harmless
    def failing(self, task_id: str, error: BaseException) -> None:
        """Why the try that is about to end is repeated."""
        self._reasons[task_id] = _one_line(error)

    @_harmless
    def finished(self, end: TryEnd) -> None:
        """A try has ended, and where its ``finish`` says so its task with it."""
        message, began, ended = end.message, end.start_time, end.finish_time
        reason = self._reasons.pop(message.task_id, "")
        if not end.finish:
            self._stopped(message.task_id)
            one = FailedTry(end.tries, began, ended, self._worker.id, reason)
            self._batch.fail(message.task_id, one)
            return
        counts = self._batch.counts(ended)
        counts[f"r{bucket(ended - began)}"] += 1
        if end.tries <= 1:  # later tries wait on purpose
            counts[f"w{bucket(began - message.enqueue_time)}"] += 1
        entry = Ended(
            message.task_id,
            end.fn_name,
            Outcome.DONE if end.success else _outcome(end.return_value),
            end.created_time,
            message.enqueue_time,
            began,
            ended,
            end.tries,
            self._worker.id,
            "" if end.success else _one_line(end.return_value),
        )
        self._ended(entry, None if end.success else end.return_value, end.payload)

    @_harmless
    def not_run(  # noqa: PLR0913 - as above
        self,
        task_id: str,
        error: BaseException,
        fn_name: str,
        tries: int,
        payload: bytes | None = None,
        *,
        queued: int = 0,
    ) -> None:
        """A task has ended without being run."""
        entry = Ended(
            task_id=task_id,
            name=fn_name,
            outcome=_outcome(error),
            created=queued,
            queued=queued,
            started=0,
            finished=_now(),
            tries=tries,
            worker=self._worker.id,
            error=_one_line(error),
        )
        self._ended(entry, error, payload or payload_of_run.get(None))

    def _ended(self, entry: Ended, error: BaseException | None, payload: bytes | None) -> None:
        self._stopped(entry.task_id)
        trace = (
            plain_traceback(error, LONGEST_TRACEBACK)
            if error is not None and entry.outcome is Outcome.FAILED
            else ""
        )
        kept = payload if payload and len(payload) <= LARGEST_PAYLOAD else b""
        self._batch.end(entry, kept, trace)

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Write down what happens inside the block, and say every few seconds that all is well."""
        self._running.clear()
        self._about = self._describe()
        async with create_task_group() as group:
            # A planned stop cancels what is around; the tasks under way are recorded to their end.
            scope = CancelScope(shield=True)
            group.start_soon(self._keep_writing, scope)
            try:
                yield
            finally:
                scope.cancel()
                with CancelScope(shield=True), move_on_after(LEAVE_SECONDS):
                    self._batch.leaving = True
                    await self._write()

    async def _keep_writing(self, scope: CancelScope) -> None:
        next_beat = 0.0
        with scope:
            while True:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + BEAT_SECONDS
                    self._batch.beat = self._beat()
                await self._write()
                await sleep(WRITE_SECONDS)

    async def _write(self) -> None:
        if self._batch.is_empty:
            return
        batch, self._batch = self._batch, Batch(self._worker.id)
        try:
            await write(self._worker.scripts, get_settings().redis_key_prefix, batch, _now())
        except (RedisError, OSError) as error:
            logger.debug("journal: %s", first_line(error))
            batch.add(self._batch, self._running)
            self._batch = batch
        except Exception:
            # It would fail again; and an error here would end the worker.
            logger.exception("the journal misses what happened in the last moment")

    def _stopped(self, task_id: str) -> None:
        self._running.pop(task_id, None)
        self._batch.stop(task_id)

    def _beat(self) -> Beat:
        worker = self._worker
        self._batch.crons = tuple(n for n, task in worker.registry.items() if task.crontab)
        counters = {name: worker.counters[name] for name in sorted(worker.counters)}
        return Beat(at=_now(), running=worker.running(), counters=counters, **self._about)

    def _describe(self) -> dict[str, Any]:
        project = project_info() if find_root() else None
        return {
            "id": self._worker.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._born,
            "concurrency": self._worker.concurrency,
            "tasks": tuple(sorted(self._worker.registry)),
            "version": project.version if project else "",
            "code": code_digest(project) if project else "",
            "runtime": __version__,
        }


def _now() -> int:
    return time.time_ns() // 1_000_000


def _outcome(error: object) -> Outcome:
    return Outcome.ABORTED if isinstance(error, StreaqCancelled) else Outcome.FAILED


def _one_line(error: BaseException) -> str:
    kind = type(error).__name__
    # Made a text first: somebody's __str__ must not cost the record.
    text = next(iter(plain_text(error, LONGEST_TRACEBACK).splitlines()), kind)
    text = plain_text(text, LONGEST_ERROR)
    return text if text == kind else f"{kind}: {text}"
