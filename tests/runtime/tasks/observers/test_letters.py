"""The dead letter of a task whose arguments came from another task."""

from __future__ import annotations

import pytest

from vibetuner.config import Settings
from vibetuner.tasks.attempt import Attempt, Cause, End
from vibetuner.tasks.letters.letter import DeadLetter
from vibetuner.tasks.observers.letters import LetterWriter
from vibetuner.tasks.payload import unpickle
from vibetuner.tasks.retry import FailurePolicy, RetryPolicy
from vibetuner.tasks.worker import TaskWorker


@pytest.fixture
def worker(fresh: None) -> TaskWorker:
    """Return a worker without a server."""
    return TaskWorker(Settings(secret_key="k" * 40))


def failed(*args: object, kwargs: dict[str, object] | None = None) -> Attempt:
    """Return an attempt that has failed, with arguments from another task."""
    attempt = Attempt("t1", tries=3, payload=b"signed without arguments")
    attempt.fn_name, attempt.created, attempt.arguments_from = "mail", 1000, "t0"
    attempt.args, attempt.kwargs = args, kwargs or {}
    attempt.end, attempt.error, attempt.cause = End.FAILED, ValueError("no"), Cause.EXCEPTION
    attempt.policy = FailurePolicy(retry=RetryPolicy(max_tries=3))
    attempt.started, attempt.finished = 2000, 3000
    return attempt


def test_arguments_of_another_task_are_kept_in_the_letter(worker: TaskWorker):
    """The dead letter has the arguments, which are stored nowhere else and which a retry needs."""
    codec, attempt = worker.signing_client().codec, failed(7, kwargs={"by": "ann"})
    LetterWriter(codec, worker_id="w1", queue="shop").ending(attempt)
    letter = DeadLetter.from_json(attempt.letter)
    kept = unpickle(codec.open_kept(letter.payload, "t1"))
    assert kept == {"f": "mail", "a": (7,), "k": {"by": "ann"}, "t": 1000}


def test_arguments_that_cannot_be_stored_leave_the_letter_without(worker: TaskWorker):
    """A dead letter is written even if its arguments can't be pickled."""
    attempt = failed(lambda: None)
    LetterWriter(worker.signing_client().codec, worker_id="w1", queue="shop").ending(attempt)
    assert DeadLetter.from_json(attempt.letter).error == "no"
