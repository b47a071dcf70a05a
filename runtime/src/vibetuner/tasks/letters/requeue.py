"""Enqueues a dead letter's task again, and marks the letter in the same step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from streaq import StreaqError, Worker

from vibetuner.errors import DeadLetterError
from vibetuner.redis.functions import Scripts
from vibetuner.redis.keys import Keys
from vibetuner.stored import Unreadable, dump_record, read_record
from vibetuner.tasks.letters.letter import Act, DeadLetter, retry_id
from vibetuner.tasks.payload import Codec, Kind, dump, unpickle
from vibetuner.tasks.queues import declared_queue, default_queue

# After a letter is settled, its mark is kept for this long, for people who loaded it before.
MARK_TIME = timedelta(days=1)

# Calls settle_letter of lua/letters.lua for the task that the text names.
Send = Callable[[list[str], list[Any], str], Awaitable[str]]

ARGUMENTS = {"f", "a", "k", "t"}
DEPENDENCIES = {"A", "T", "F", "O"}


class Requeue:
    """Settles letters in Redis.

    Args:
        worker: knows the tasks and the queues.
        codec: signs the calls.
        prefix: REDIS_KEY_PREFIX.
        send_retry: sends retries, if they are to be durable.
    """

    def __init__(
        self, worker: Worker[Any], codec: Codec, prefix: str, send_retry: Send | None = None
    ) -> None:
        self._worker = worker
        self._codec = codec
        self._keys = Keys(prefix)
        self._send_retry = send_retry

    def payload_of(self, letter: DeadLetter) -> bytes:
        """Return the payload to enqueue, signed again, without ties to tasks that are gone.

        Raises:
            DeadLetterError: the payload is gone, forged or unreadable, or lacks arguments.
        """
        if not letter.payload:
            raise _refusal(letter, "its arguments are gone")
        try:
            body = self._codec.open_kept(letter.payload, letter.task_id)
            data = unpickle(body)
        except StreaqError as error:
            raise _refusal(letter, f"its arguments can't be read ({error})") from None
        if not isinstance(data, dict) or not data.keys() >= ARGUMENTS:
            raise _refusal(letter, "the stored payload is no call of a task")
        if data["f"] != letter.task_name:
            raise _refusal(letter, "the stored payload is a call of another task")
        if source := data.get("A"):
            raise _refusal(letter, f"its arguments come from the result of {source}, which is gone")
        if data.keys() & DEPENDENCIES:
            body = dump({name: data[name] for name in data.keys() - DEPENDENCIES})
        return self._codec.seal(body, Kind.CALL, retry_id(letter.task_id))

    async def settle(
        self, letter: DeadLetter, act: Act, payload: bytes | None, *, keep: bool = False
    ) -> Act:
        """Record ``act`` unless another act was recorded before; return the recorded one.

        With ``keep``, the mark is kept for ever, as the only record of the act.
        """
        task_id = letter.task_id
        worker = self._worker
        new_id = act.retried_as or ""
        keys = [
            self._keys.act(task_id),
            self._keys.acted,
            worker.task_key + new_id,
            worker.stream_key + self._queue_of(letter),
            self._keys.letters,
            self._keys.letter_places,
            self._keys.guard,
        ]
        values: list[str | bytes | int] = [
            task_id, dump_record(act), new_id, payload or b"", int(keep), letter.fingerprint,
        ]  # fmt: skip
        if payload is not None and self._send_retry is not None:
            decided = await self._send_retry(keys, values, f"{letter.task_name} {new_id}")
        else:
            decided = await Scripts(worker.redis).call("settle_letter", keys, values)
        try:
            return read_record(Act, decided)
        except Unreadable:
            raise DeadLetterError(
                f"The dead letter of {task_id} was retried or discarded, and the record of that "
                f"can't be read. Remove the record:  HDEL {self._keys.acted} {task_id}"
            ) from None

    def _queue_of(self, letter: DeadLetter) -> str:
        """Return the queue that the task was in, or that it would be in now."""
        worker = self._worker
        declared = declared_queue(worker.registry.get(letter.task_name))
        known = (name for name in (letter.priority, declared) if name in worker.priorities)
        return next(known, default_queue(worker.priorities))

    async def forget(self, task_id: str) -> None:
        """Let the mark expire, once the record in MongoDB holds the act."""
        await self._worker.redis.expire(self._keys.act(task_id), MARK_TIME)


def _refusal(letter: DeadLetter, reason: str) -> DeadLetterError:
    return DeadLetterError(
        f"{letter.task_name} {letter.task_id} can't be retried: {reason}. "
        "Enqueue it again with arguments of your own, or discard the letter"
    )
