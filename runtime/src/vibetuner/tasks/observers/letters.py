"""Writes the dead letters of one worker."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from vibetuner.errors import PayloadError
from vibetuner.tasks.attempt import Attempt, Cause, End
from vibetuner.tasks.letters.letter import DeadLetter, fingerprint
from vibetuner.tasks.letters.plain import plain, plain_text, plain_traceback
from vibetuner.tasks.observers import Observer
from vibetuner.tasks.payload import KEPT, Codec, Kind, dump


class LetterWriter(Observer):
    """Adds a dead letter to the recorded end of a task that will not be tried again.

    Robust tasks get one, and so do tasks whose function is unknown here.
    """

    def __init__(self, codec: Codec, *, worker_id: str, queue: str) -> None:
        self._codec = codec
        self._worker_id = worker_id
        self._queue = queue

    def ending(self, attempt: Attempt) -> None:
        """Write the letter; it is stored in the step that records the end."""
        if attempt.end is not End.FAILED or (attempt.task and attempt.policy is None):
            return
        try:
            attempt.letter = self._letter(attempt, attempt.payload or b"")
        except MemoryError:  # a letter without arguments is better than none
            attempt.letter = self._letter(attempt, b"")

    def _letter(self, attempt: Attempt, payload: bytes) -> str:
        error, cause = attempt.error, attempt.cause or Cause.EXCEPTION
        assert error is not None  # noqa: S101 - it has failed
        # The attempt that found the limit of tries reached did not run its function.
        tries = attempt.tries - 1 if cause is Cause.CRASHED else attempt.tries
        enqueued_at = None
        if attempt.created:
            enqueued_at = datetime.fromtimestamp(attempt.created / 1000, UTC)
        if attempt.arguments_from and attempt.args:  # of another task, and not stored
            whole = {
                "f": attempt.fn_name, "a": tuple(attempt.args), "k": dict(attempt.kwargs),
                "t": attempt.created,
            }  # fmt: skip
            with suppress(PayloadError):
                payload = self._codec.seal(dump(whole), Kind.CALL, attempt.task_id)
        return DeadLetter(
            task_name=attempt.fn_name,
            task_id=attempt.task_id,
            error=plain_text(error),
            error_type=type(error).__name__,
            tries=tries,
            failed_at=datetime.fromtimestamp(attempt.finished / 1000, UTC),
            cause=cause,
            args=plain(list(attempt.args)),
            kwargs=plain(dict(attempt.kwargs)),
            traceback=plain_traceback(error),
            worker_id=self._worker_id,
            queue=self._queue,
            priority=attempt.priority,
            enqueued_at=enqueued_at,
            fingerprint=fingerprint(attempt.fn_name, cause, error),
            payload=payload[KEPT],
        ).to_json()
