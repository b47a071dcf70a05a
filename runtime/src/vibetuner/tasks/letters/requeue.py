"""Prepares a dead letter's task to be enqueued again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from streaq import StreaqError, Worker

from vibetuner.errors import DeadLetterError
from vibetuner.redis.keys import Keys
from vibetuner.tasks.letters.letter import DeadLetter, retry_id
from vibetuner.tasks.payload import Codec, Kind, dump, unpickle
from vibetuner.tasks.queues import declared_queue, default_queue

# Calls settle_letter of lua/letters.lua for the task that the text names.
Send = Callable[[list[str], list[Any], str], Awaitable[str]]

ARGUMENTS = {"f", "a", "k", "t"}
DEPENDENCIES = {"A", "T", "F", "O"}


class Retry(NamedTuple):
    """A task to enqueue: its payload, the keys of that and of its queue, and how to send it.

    With ``send``, the enqueue is durable.
    """

    payload: bytes
    data: str
    stream: str
    send: Send | None = None


def make_retry(
    letter: DeadLetter, worker: Worker[Any], keys: Keys, codec: Codec, send: Send | None
) -> Retry:
    """Return the task of a letter, its call signed again, without ties to tasks that are gone.

    It goes into the queue that it was in, or that it would be in now.

    Raises DeadLetterError if the payload is gone, forged or unreadable, or lacks arguments.
    """
    if not letter.payload:
        raise _refusal(letter, "its arguments are gone")
    try:
        body = codec.open_kept(letter.payload, letter.task_id)
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
    new_id = retry_id(letter)
    declared = declared_queue(worker.registry.get(letter.task_name))
    known = (name for name in (letter.priority, declared) if name in worker.priorities)
    queue = next(known, default_queue(worker.priorities))
    payload = codec.seal(body, Kind.CALL, new_id)
    return Retry(payload, keys.data(new_id), keys.stream(queue), send)


def _refusal(letter: DeadLetter, reason: str) -> DeadLetterError:
    return DeadLetterError(
        f"{letter.task_name} {letter.task_id} can't be retried: {reason}. "
        "Enqueue it again with arguments of your own, or discard the letter"
    )
