"""Writes the dead letters of one worker."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anyio import move_on_after
from coredis.exceptions import RedisError
from streaq import StreaqError
from streaq.constants import REDIS_PREVIOUS

from vibetuner.config import get_settings
from vibetuner.errors import PayloadError, ServiceUnavailable
from vibetuner.tasks.letters.letter import Cause, DeadLetter, fingerprint
from vibetuner.tasks.letters.plain import plain, plain_text, plain_traceback
from vibetuner.tasks.letters.stream import keep

if TYPE_CHECKING:
    from vibetuner.tasks.fast import FastWorker

__all__ = ["Burial", "Unburied"]

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"


class Unburied(ServiceUnavailable):
    """A task that has failed for good has no letter yet, and must not end without one."""


class Burial:
    """Keeps a record of each task that one worker gives up."""

    def __init__(self, worker: FastWorker) -> None:
        self._worker = worker

    async def bury(  # noqa: PLR0913 - what is known of an end
        self,
        task_id: str,
        error: BaseException,
        cause: Cause,
        tries: int,
        *,
        payload: bytes | None = None,
        with_end: bool = True,
    ) -> DeadLetter:
        """Write the letter of a task into the stream, before the engine forgets its payload.

        It is kept in the step that records the task's end, which follows; without ``with_end``, or
        where the server has no such step, at once.

        Args:
            payload: what was enqueued, where that is known; else it is looked up.

        Raises:
            Unburied: Redis is away. The task must not be ended without its letter.
        """
        try:
            return await self._bury(task_id, error, cause, tries, payload, with_end=with_end)
        except (RedisError, OSError) as problem:
            raise Unburied(f"lost Redis, dead letters can't be kept ({problem})") from problem

    async def _bury(  # noqa: PLR0913 - as above
        self,
        task_id: str,
        error: BaseException,
        cause: Cause,
        tries: int,
        payload: bytes | None,
        *,
        with_end: bool,
    ) -> DeadLetter:
        if payload is None:
            # What is no text, as a pickle is not, comes as bytes in spite of the client's type.
            raw: Any = await self._worker.redis.get(self._worker.task_key + task_id)
            payload = raw.encode() if isinstance(raw, str) else bytes(raw or b"")
        data = await self._read(payload) if cause is not Cause.UNREADABLE_PAYLOAD else {}
        if "A" in data:
            data, payload = await self._with_arguments(data, payload)
        name = data.get("f", UNKNOWN)
        letter = DeadLetter(
            task_name=name,
            task_id=task_id,
            error=plain_text(error),
            error_type=type(error).__name__,
            tries=tries,
            failed_at=_now(),
            cause=cause,
            args=plain(data.get("a", ())),
            kwargs=plain(data.get("k", {})),
            traceback=plain_traceback(error),
            worker_id=self._worker.id,
            queue=self._worker.queue_name,
            enqueued_at=_moment(data.get("t")),
            fingerprint=fingerprint(name, cause, error),
            payload=payload,
        )
        if not (with_end and self._worker.keep_with_end(task_id, letter.to_json())):
            await keep(self._worker.redis, get_settings().redis_key_prefix, letter)
        return letter

    async def _read(self, payload: bytes) -> dict[str, Any]:
        if not payload:
            return {}
        try:
            data = await self._worker.deserialize(payload)
        except StreaqError:
            return {}
        return data if isinstance(data, dict) else {}

    async def _with_arguments(
        self, data: dict[str, Any], payload: bytes
    ) -> tuple[dict[str, Any], bytes]:
        """A task whose arguments are another's result, with these; nobody keeps them for it."""
        worker = self._worker
        handed_on: Any = await worker.redis.get(worker.prefix + REDIS_PREVIOUS + data["A"])
        try:
            arguments = await worker.deserialize(handed_on)
            whole = {**data, "a": arguments}
            del whole["A"]
            serialized = await worker.serialize(whole)
        except (StreaqError, PayloadError):
            return data, payload
        return whole, serialized.encode() if isinstance(serialized, str) else serialized


def _now() -> datetime:
    """To the millisecond, which is what MongoDB keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


async def notify(on_failure: Any, letter: DeadLetter, error: BaseException, limit: float) -> None:
    """Call a task's ``on_failure``; what it raises is logged and changes nothing."""
    try:
        with move_on_after(limit):
            outcome = on_failure(letter.task_name, letter.task_id, error)
            if hasattr(outcome, "__await__"):
                await outcome
    except Exception:
        logger.exception("on_failure of %s failed", letter.task_name)
