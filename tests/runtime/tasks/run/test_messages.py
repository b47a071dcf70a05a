"""No message ends a worker: whatever is wrong with it, its task has one recorded end."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streaq import StreaqError

from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.errors import PayloadError
from vibetuner.tasks.payload import Codec, Kind
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

ENDS = {"completed", "failed", "aborted"}


class Mute(Exception):
    """An exception that can be neither shown nor pickled."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise TypeError("no pickle")


class Exiting(Mute):
    """An exception that exits wherever it is shown or pickled."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


class OneWay(Exception):
    """An exception that can be pickled and not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class OneWayValue:
    """A value that can be pickled and not unpickled."""

    def __reduce__(self) -> Any:
        return (_refuse, ())


class ExitingValue:
    """A value that exits wherever it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)


def deep_group(depth: int = 5000) -> BaseException:
    """Return a group of exceptions that is nested ``depth`` times."""
    whole: BaseException = ValueError("no")
    for _ in range(depth):
        whole = BaseExceptionGroup("several", [whole])
    return whole


def _refuse() -> None:
    raise LookupError("not here")


def nested(depth: int = 100_000) -> list[Any]:
    """Return a list that is nested ``depth`` times."""
    whole: list[Any] = []
    for _ in range(depth):
        whole = [whole]
    return whole


RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "a group": lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("no")]),
    "one that can't be shown": Mute,
    "one that can't be read back": lambda: OneWay("a", "b"),
    "RecursionError": RecursionError,
    "a deep group": deep_group,
    "one that exits": Exiting,
}


@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_whatever_a_function_raises_is_the_end_of_its_task_alone(
    worker: TaskWorker, running: Running, kind: str, is_async: bool
):
    """An exception of any kind fails its task, and the worker runs the next one."""

    def raise_it() -> None:
        error = RAISED[kind]()
        raise error

    async def raise_it_later() -> None:
        await asyncio.sleep(0)
        raise_it()

    fails = worker.task(name="fails")(raise_it_later if is_async else raise_it)

    @worker.task(name="noop")
    async def noop() -> str:
        return "here"

    async with running(worker):
        failed = await fails.enqueue()
        assert not (await failed.result(timeout=30)).success
        assert (await (await noop.enqueue()).result(timeout=30)).result == "here"
        assert (worker.counters["failed"], worker.counters["completed"]) == (1, 1)


@pytest.mark.parametrize("kind", RAISED)
async def test_a_robust_task_has_a_letter_for_any_error(
    worker: TaskWorker, running: Running, kind: str
):
    """A robust task that fails by an exception of any kind has a dead letter."""
    with using_worker(worker):

        @robust_task(max_retries=1, name="fails")
        async def fails() -> None:
            error = RAISED[kind]()
            raise error

    async with running(worker):
        task = await fails.enqueue()
        await task.result(timeout=30)
        assert await worker.redis.hexists(worker.client.keys.letter_places, task.id)


async def test_a_result_that_cannot_be_stored_fails_its_task(worker: TaskWorker, running: Running):
    """A result that can't be pickled, or not unpickled, fails its task with PayloadError."""
    values = [lambda: None, nested(), OneWayValue(), ExitingValue()]

    @worker.task(name="give")
    async def give(place: int) -> Any:
        return values[place]

    @worker.task(name="take")
    async def take(value: Any) -> Any:
        return value

    async with running(worker):
        for place in range(len(values)):
            result = await (await give.enqueue(place)).result(timeout=30)
            assert isinstance(result.exception, PayloadError), place
        following = await give.enqueue(0).then(take)
        assert not (await following.result(timeout=30)).success


@pytest.mark.parametrize("moment", ["wrapping", "before", "after"])
async def test_a_middleware_that_raises_fails_its_task(
    worker: TaskWorker, running: Running, moment: str
):
    """A middleware that raises, when it wraps the function or around its run, fails the task.

    The worker runs the next one.
    """
    broken = [moment]

    def fail_at(now: str) -> None:
        if now in broken:
            raise LookupError("no middleware")

    @worker.middleware
    def around(run: Any) -> Any:
        fail_at("wrapping")

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            fail_at("before")
            result = await run(*args, **kwargs)
            fail_at("after")
            return result

        return wrapped

    @worker.task(name="noop")
    async def noop() -> int:
        return 1

    async with running(worker):
        failed = await (await noop.enqueue()).result(timeout=30)
        assert str(failed.exception) == "no middleware"
        broken.clear()
        assert (await (await noop.enqueue()).result(timeout=30)).result == 1


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "f": st.just("noop") | SHAPES,
        "a": st.just(()) | SHAPES,
        "k": st.just({}) | SHAPES,
        "t": st.just(1) | SHAPES,
        "A": SHAPES,
        "T": SHAPES,
        "O": SHAPES,
        "F": SHAPES,
    },
)


async def test_messages_of_any_shape_end_once(worker: TaskWorker, running: Running):
    """Messages with foreign fields, and payloads of any bytes, signed or not, each have one end."""
    payloads: list[bytes] = []

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.binary(max_size=40) | SHAPES.map(pickle.dumps) | CALLS.map(pickle.dumps), st.booleans()
    )
    def collect(body: bytes, is_signed: bool) -> None:
        name = f"odd-{len(payloads)}"
        payloads.append(codec.seal(body, Kind.CALL, name) if is_signed else body)

    @worker.task(name="noop")
    async def noop(*_: Any, **__: Any) -> None: ...

    async with running(worker):
        codec: Codec = worker.client.codec
        collect()
        stream = worker.stream_key + worker.priorities[-1]
        await worker.redis.xadd(stream, {"foreign": "field"})
        await worker.redis.xadd(stream, {"task_id": "gone", "enqueue_time": "not a number"})
        for number, payload in enumerate(payloads):
            await worker.redis.set(f"{worker.task_key}odd-{number}", payload)
            await worker.redis.xadd(stream, {"task_id": f"odd-{number}"})
        last = await noop.enqueue()
        await last.result(timeout=30)

        async def is_empty() -> bool:
            return not await worker.redis.xlen(stream)

        await eventually(is_empty, seconds=30)
        ended = sum(worker.counters[name] for name in ENDS)
        assert ended == len(payloads) + 3
        results = [f"{worker.results_key}odd-{number}" for number in range(len(payloads))]
        assert await worker.redis.exists(results) == len(payloads)
        keys = worker.client.keys
        assert await worker.redis.exists([keys.running, keys.retry("")]) == 0


@pytest.mark.parametrize("where", ["a mark", "a schedule", "a name", "a line"])
async def test_a_mark_or_schedule_that_cannot_be_read_ends_no_worker(
    worker: TaskWorker, running: Running, where: str
):
    """A mark for an abort that is not UTF-8 is ignored, and so is a schedule that can't be read."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with running(worker):
        keys, redis = worker.client.keys, worker.redis
        if where == "a mark":
            await redis.sadd(keys.aborted, [b"\xff\xfe"])
        else:
            name = b"tick" if where == "a line" else b"\xff\xfe"
            await redis.zadd(keys.cron_schedule, {name: 0})
            if where != "a schedule":
                line = b"no line" if where == "a line" else b"* * * * *"
                await redis.hset(keys.cron_tabs, {name: line})
        later = await noop.enqueue().start(delay=1.2)  # after two looks at them
        assert (await later.result(timeout=30)).success


async def test_an_enormous_call_ends_unread(worker: TaskWorker, running: Running):
    """A stored call of more than 32 MB, or count of attempts, is not loaded, and the task ends."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with running(worker):
        stream = worker.stream_key + worker.priorities[-1]
        await worker.redis.set(f"{worker.task_key}large", bytes((32 << 20) + 1))
        await worker.redis.xadd(stream, {"task_id": "large"})
        counted = await noop.enqueue().start(delay=0.3)
        await worker.redis.set(worker.client.keys.retry(counted.id), b"9" * 1_000_000)
        assert (await counted.result(timeout=30)).success
        ended = await worker.result_by_id("large", timeout=30)
        assert await worker.redis.exists([f"{worker.task_key}large"]) == 0

    assert str(ended.exception) == "An empty call, or one of more than 32 MB!"


async def test_a_call_of_more_than_32_mb_is_refused(worker: TaskWorker, running: Running):
    """A call with arguments of more than 32 MB is refused with an error that names the task."""

    @worker.task(name="take")
    async def take(value: bytes) -> int:
        return len(value)

    async with running(worker):
        with pytest.raises(StreaqError, match="Unable to serialize task take") as caught:
            await take.enqueue(bytes(32_000_000))
        task = await take.enqueue(bytes(31_900_000))
        assert (await task.result(timeout=60)).result == 31_900_000

    assert isinstance(caught.value.__cause__, PayloadError)
    assert str(caught.value.__cause__).startswith("take: its arguments have 32,0")


async def test_an_argument_that_is_nested_too_deep_is_refused(worker: TaskWorker, running: Running):
    """An argument that is nested too deep raises StreaqError, and nothing is enqueued."""

    @worker.task(name="take")
    async def take(_value: Any) -> None: ...

    async with running(worker):
        with pytest.raises(StreaqError, match="Unable to serialize task take"):
            await take.enqueue(nested())
        assert await worker.queue_size() == 0
