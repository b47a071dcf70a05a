"""Stored arguments and results: signed, and with a recorded end whatever they are."""

from __future__ import annotations

import hmac
import logging
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaq import StreaqError

from vibetuner.config import Settings
from vibetuner.errors import PayloadError
from vibetuner.project import using_data_dir
from vibetuner.tasks.payload import Codec, Kind, dump, signing_keys
from vibetuner.tasks.worker import TaskWorker


class Stubborn(Exception):
    """An exception that can be pickled, but not unpickled by its constructor."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


class Attack:
    """An object whose pickle makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._trace,)


async def test_a_result_that_cannot_be_stored_ends_as_a_failure(worker: TaskWorker, running):
    """A result that can't be pickled fails its task with the cure, and the worker goes on."""

    @worker.task(name="lock")
    async def lock() -> Any:
        return threading.Lock()

    @worker.task()
    async def fine() -> str:
        return "fine"

    async with running(worker):
        failed = await (await lock.enqueue()).result(timeout=30)
        after = await (await fine.enqueue()).result(timeout=30)

    assert not failed.success
    assert isinstance(failed.exception, PayloadError)
    assert str(failed.exception).startswith("lock: its result, a lock, can't be stored (cannot")
    assert str(failed.exception).endswith("Return plain data")
    assert after.result == "fine"


async def test_an_exception_that_cannot_be_stored_ends_as_a_failure_that_names_it(
    worker: TaskWorker, running
):
    """A PayloadError with its text replaces an exception that can't be pickled or unpickled."""

    @worker.task()
    async def stubborn() -> None:
        raise Stubborn("the till", "is empty")

    @worker.task()
    async def holding_a_lock() -> None:
        raise ValueError(threading.Lock())

    async with running(worker):
        first = await (await stubborn.enqueue()).result(timeout=30)
        second = await (await holding_a_lock.enqueue()).result(timeout=30)

    assert isinstance(first.exception, PayloadError)
    assert str(first.exception) == "Stubborn: the till: is empty"
    assert isinstance(second.exception, PayloadError)
    assert str(second.exception).startswith("ValueError: <unlocked _thread.lock")


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((1, threading.Lock()), {}, "argument 2, a lock"),
        ((1,), {"key": threading.Lock()}, "argument key=, a lock"),
        (((n for n in [1]),), {}, "argument 1, a generator"),
    ],
)
def test_an_argument_that_cannot_be_stored_is_named_and_not_shown(args, kwargs, named: str):
    """The error for an argument that can't be pickled names it and its class, and has no value."""
    with pytest.raises(PayloadError, match=f"^bill: {named}, can't be stored") as caught:
        dump({"f": "bill", "a": ("hunter2", *args)[1:], "k": {"secret": "hunter2", **kwargs}})

    assert str(caught.value).endswith(
        "Pass plain data, such as an id, and load the rest in the task"
    )
    assert "hunter2" not in str(caught.value)


class Fickle:
    """An object that can't be pickled the first time, but the second time."""

    def __init__(self) -> None:
        self._refusals = ["not yet"]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._refusals:
            raise TypeError(self._refusals.pop())
        return str, ()


def test_arguments_that_can_each_be_stored_are_refused_together():
    """The error names no argument if each can be pickled alone, but not all of them together."""
    with pytest.raises(PayloadError, match="^bill: its arguments can't be stored. Pass plain data"):
        dump({"f": "bill", "a": (Fickle(),), "k": {}})
    with pytest.raises(PayloadError, match="^A result can't be stored: not yet$"):
        dump(Fickle())


class Refusing:
    """An object that can't be pickled, with an error of several lines or without text."""

    def __init__(self, *reason: str) -> None:
        self._reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(*self._reason)


OUT_OF_MEMORY = """
import resource
from pathlib import Path

from streaq import StreaqError

from vibetuner.tasks.payload import Codec, Kind, dump
from vibetuner.tasks.attempt import Attempt, Cause, End
from vibetuner.tasks.observers.letters import LetterWriter

codec = Codec([b"key"], "streaq:shop", accepts_unbound=False)
sealed = codec.seal(dump({"f": "bill", "a": (bytes(31_000_000),), "k": {}}), Kind.CALL, "1")
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 20_000_000, resource.RLIM_INFINITY))
attempt = Attempt("1", "normal", "1-1", payload=sealed)
try:
    codec.load(sealed, Kind.CALL, "1")
except StreaqError as error:
    attempt.error, attempt.cause, attempt.end = error, Cause.UNREADABLE_PAYLOAD, End.FAILED
LetterWriter(codec, worker_id="w", queue="shop").ending(attempt)
print(attempt.error, "error" in attempt.letter)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone limits a process's memory like it")
def test_arguments_that_memory_does_not_hold_leave_a_dead_letter():
    """A call that is too large for a worker's memory ends with the reason, and has a letter."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    assert done.stdout == "Failed to deserialize data (MemoryError)! True\n"


async def test_a_result_that_memory_does_not_hold_names_the_reason(worker: TaskWorker, running):
    """The error of a result that can't be stored names the class of a cause without a message."""

    @worker.task(name="report")
    async def report() -> Refusing:
        return Refusing()

    async with running(worker):
        failed = await (await report.enqueue()).result(timeout=30)

    reason = "report: its result, a Refusing, can't be stored (TypeError). Return plain data"
    assert str(failed.exception) == reason


@pytest.mark.parametrize(
    ("value", "reason"), [(Refusing("one\ntwo"), "one"), (Refusing(), "TypeError")]
)
def test_the_reason_is_one_line(value: Refusing, reason: str):
    """The reason in a PayloadError is the first line of the cause's text, or the cause's name."""
    with pytest.raises(PayloadError, match=rf"a Refusing, can't be stored \({reason}\)\. Pass"):
        dump({"f": "bill", "a": (value,), "k": {}})


def test_a_schedule_that_an_older_worker_has_copied_is_read_for_a_while():
    """A call that is signed for a schedule is read for its run while older signatures are accepted.

    A call of another task is refused.
    """
    lenient, strict = (
        Codec([b"key"], "streaq:shop", accepts_unbound=accepts) for accepts in (True, False)
    )

    def scheduled(call: Any) -> bytes:
        return lenient.seal(pickle.dumps(call), Kind.SCHEDULE, "nightly")

    assert lenient.load(scheduled({"f": "nightly"}), Kind.CALL, "run") == {"f": "nightly"}
    with pytest.raises(StreaqError, match="another place"):
        strict.load(scheduled({"f": "nightly"}), Kind.CALL, "run")
    for call in ({"f": "weekly"}, {"f": "\ud800"}, {}, "nightly"):
        with pytest.raises(StreaqError, match="another place"):
            lenient.load(scheduled(call), Kind.CALL, "run")


def test_a_call_that_was_kept_whole_is_read():
    """A whole call, as versions before 0.2 kept it, is read for its own task only."""
    codec = Codec([b"key"], "streaq:shop", accepts_unbound=False)
    call = codec.seal(b"N.", Kind.CALL, "1")
    assert codec.open_kept(call, "1") == b"N."
    with pytest.raises(StreaqError, match="another place"):
        codec.open_kept(call, "2")


def test_the_name_of_a_place_must_be_encodable():
    """An id with a lone surrogate raises StreaqError."""
    codec = Codec([b"key"], "streaq:shop", accepts_unbound=False)
    with pytest.raises(StreaqError, match="^Task data under an id that is no text!$"):
        codec.open(codec.seal(b"N.", Kind.CALL, "1"), Kind.CALL, "\ud800")


def keys(**values: str) -> list[bytes]:
    return signing_keys(Settings(**values))


def read(data: bytes, of: list[bytes], *, accepts_unbound: bool = True) -> Any:
    codec = Codec(of, "streaq:shop", accepts_unbound=accepts_unbound)
    return codec.load(data, Kind.CALL, "1")


def sealed(data: Any, key: bytes) -> bytes:
    body = dump(data)
    return body + hmac.digest(key, body, "sha256")


@given(st.binary(max_size=200))
def test_unsigned_data_is_not_read(data: bytes):
    """Bytes without our signature raise StreaqError."""
    with pytest.raises(StreaqError, match="Invalid signature"):
        read(data, keys(secret_key="ours"))


def test_a_signature_holds_for_what_was_signed_and_for_one_secret():
    """Data with one changed bit, or with the signature of another secret, raises StreaqError."""
    data = sealed({"a": 1}, keys(secret_key="ours")[0])

    assert read(data, keys(secret_key="ours")) == {"a": 1}
    for changed in (data[:-1] + bytes([data[-1] ^ 1]), bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(StreaqError, match="Invalid signature"):
            read(changed, keys(secret_key="ours"))
    with pytest.raises(StreaqError, match="Invalid signature"):
        read(data, keys(secret_key="theirs"))


def test_the_secret_can_be_changed_while_tasks_wait():
    """Payloads of the previous secret are still read, and new ones are signed with the new one."""
    old = sealed("old", keys(secret_key="old")[0])
    both = keys(secret_key="new", secret_key_previous="old")

    assert read(old, both) == "old"
    assert both[0] == keys(secret_key="new")[0]


def test_the_key_of_a_secret_never_changes():
    """SECRET_KEY leads to the same key in every version, which has to read waiting tasks."""
    assert keys(secret_key="ours")[0].hex() == (
        "71ccf92320a56dfef9e5b3e548678c875cce2b43773b52532f688d4d1fa5e0ff"
    )


def test_the_key_is_not_the_secret_itself():
    """The signing key does not contain SECRET_KEY, which signs other things, too."""
    assert b"ours" not in keys(secret_key="ours")[0]


def test_without_a_secret_the_projects_folder_keeps_one(fresh: None, tmp_path: Path):
    """A project's processes share one stored key, which only the owner can read."""
    with using_data_dir(tmp_path / "a"):
        first, again = keys(), keys()
    with using_data_dir(tmp_path / "b"):
        other = keys()

    assert first == again
    assert first != other
    assert stat.S_IMODE((tmp_path / "a" / "signing-key").stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".gitignore", "signing-key"]


def test_the_error_for_unreadable_data_shows_no_value():
    """The error for a payload that can't be unpickled has the error's type, but no value."""
    body = pickle.dumps(Stubborn("hunter2", "hunter2"))
    key = keys(secret_key="ours")[0]
    with pytest.raises(StreaqError, match=r"Failed to deserialize data \(TypeError\)") as caught:
        read(body + hmac.digest(key, body, "sha256"), [key])
    assert "hunter2" not in str(caught.value)


async def test_a_forged_payload_is_never_unpickled(
    worker: TaskWorker, running, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A forged payload fails its task without being unpickled, and the worker goes on."""
    caplog.set_level(logging.INFO)
    trace = tmp_path / "attacked"

    @worker.task(name="greet")
    async def greet(name: str) -> str:
        return f"hello {name}"

    async with worker:
        forged = await greet.enqueue("hunter2")
        for attack in (pickle.dumps(Attack(trace)), pickle.dumps(Attack(trace)) + bytes(32)):
            await worker.redis.set(worker.task_key + forged.id, attack)
    async with running(worker):
        with pytest.raises(StreaqError, match="Invalid signature"):
            raise (await forged.result(timeout=30)).exception
        assert (await (await greet.enqueue("you")).result(timeout=30)).result == "hello you"

    assert not trace.exists()
    assert (
        "unknown not run: Invalid signature for task data! To read it, set SECRET_KEY_PREVIOUS to "
        "the SECRET_KEY that it was enqueued with"
    ) in caplog.messages
    assert "hunter2" not in caplog.text


async def test_a_forged_result_is_never_unpickled(worker: TaskWorker, tmp_path: Path):
    """A client that reads a forged result gets StreaqError, and the result is not unpickled."""
    trace = tmp_path / "attacked"

    @worker.task(name="greet")
    async def greet() -> None: ...

    async with worker:
        task = await greet.enqueue()
        await worker.redis.set(
            worker.results_key + task.id, pickle.dumps(Attack(trace)) + bytes(32)
        )
        with pytest.raises(StreaqError, match="Invalid signature"):
            await task.result(timeout=30)
    assert not trace.exists()


def test_a_result_of_more_than_256_mb_is_refused():
    """A larger result or error, which a server would refuse for ever, becomes a PayloadError."""
    data = {"f": "export", "s": True}
    stored = pickle.loads(dump({**data, "r": bytes(256_000_000)}))
    assert stored["s"] is False
    assert "export: its result, a bytes, can't be stored (256,000,0" in str(stored["r"])
    assert "bytes, and 256,000,000 are allowed). Return plain data" in str(stored["r"])
    stored = pickle.loads(dump({**data, "r": ValueError("x" * 256_000_000)}))
    assert len(str(stored["r"])) < 20_000
    with pytest.raises(PayloadError, match="256,000,000 are allowed"):
        dump((bytes(256_000_000),))  # the arguments of the task that follows
