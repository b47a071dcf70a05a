"""Writes the dead letters of one worker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from vibetuner.tasks.attempt import Attempt, Cause, End
from vibetuner.tasks.dead_letters.letter import (
    DeadLetter,
    fingerprint,
    plain,
    plain_text,
    plain_traceback,
)
from vibetuner.tasks.observers import Observer
from vibetuner.tasks.payload import Codec

__all__ = ["LetterWriter"]


class LetterWriter(Observer):
    """Adds a dead letter to the recorded end of a task that will not be tried again.

    Robust tasks have one, and so do tasks whose function is not known here.
    """

    def __init__(self, codec: Codec, *, worker_id: str, queue: str) -> None:
        self._codec = codec
        self._worker_id = worker_id
        self._queue = queue

    def ending(self, attempt: Attempt) -> None:
        """Write the letter; the step that records the end keeps it."""
        if attempt.end is not End.FAILED or (attempt.task and attempt.policy is None):
            return
        error, cause = attempt.error, attempt.cause or Cause.EXCEPTION
        assert error is not None  # noqa: S101 - it has failed
        # The attempt that finds the limit reached did not run.
        tries = attempt.tries - 1 if cause is Cause.CRASHED else attempt.tries
        letter = DeadLetter(
            task_name=attempt.fn_name,
            task_id=attempt.task_id,
            error=plain_text(error),
            error_type=type(error).__name__,
            tries=tries,
            failed_at=_moment(attempt.finished),
            cause=cause,
            args=_shown(list(attempt.args), []),
            kwargs=_shown(dict(attempt.kwargs), {}),
            traceback=plain_traceback(error),
            worker_id=self._worker_id,
            queue=self._queue,
            enqueued_at=_moment(attempt.created) if attempt.created else None,
            fingerprint=fingerprint(attempt.fn_name, cause, error),
            payload=self._payload(attempt),
        )
        attempt.letter = letter.to_json()

    def _payload(self, attempt: Attempt) -> bytes:
        """What a retry enqueues: what was stored, with arguments that came from another task."""
        if not attempt.arguments_from or not attempt.args:
            return attempt.payload or b""
        whole = {
            "f": attempt.fn_name, "a": tuple(attempt.args), "k": dict(attempt.kwargs),
            "t": attempt.created,
        }  # fmt: skip
        return self._codec.dump(whole)


def _shown(arguments: Any, nothing: Any) -> Any:
    """Arguments for people; somebody's class must not cost the letter."""
    try:
        return plain(arguments)
    except Exception:  # noqa: BLE001 - as above
        return nothing


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
