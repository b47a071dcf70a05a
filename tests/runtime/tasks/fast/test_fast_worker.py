"""What the fast path does beyond the engine: fences, gives tries back, and gives way."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from coredis import Redis
from streaq import StreaqError
from streaq.types import StreaqCancelled

from tests.processes import free_port, wait_until
from vibetuner.config import Settings, using_settings
from vibetuner.embedded.packages import valkey_binary
from vibetuner.redis.blocking import responds
from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions, FunctionsRefused
from vibetuner.redis.url import parse_url
from vibetuner.tasks.dead_letters.stream import stream_key
from vibetuner.tasks.fast.ends import End
from vibetuner.tasks.fast.flow import FRESH_SECONDS
from vibetuner.tasks.guard import Guard
from vibetuner.tasks.retry import RetryPolicy
from vibetuner.tasks.worker import TaskWorker

Running = Callable[[TaskWorker], AbstractAsyncContextManager[TaskWorker]]

# All that streaq itself calls, and none of ours.
STREAQS_FUNCTIONS = (
    "create_groups fail_dependents publish_delayed_tasks publish_task read_streams "
    "update_dependents refresh_timeout schedule_cron_job"
)


class Server:
    """A server of the test's own, with users of the test's own."""

    def __init__(self, folder: Path, *rules: str) -> None:
        self._folder, self._rules = folder, rules
        self._port = free_port()
        self.url = f"redis://tester:x@127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        rules = ["--user", "tester", "on", ">x", "~*", "&*", "+@all", *self._rules]
        self._process = subprocess.Popen(
            [str(valkey_binary()), *arguments, "--dir", str(self._folder), *rules],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, what=lambda: "valkey")

    def kill(self) -> None:
        """Without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        return responds(self._port)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """One whose user has the rules of the test's parameter."""
    server = Server(tmp_path, *getattr(request, "param", "").split())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def worker(stand_in, settings: Settings) -> TaskWorker:
    """A worker of the test's own, in a project that says nothing."""
    stand_in()
    return TaskWorker(settings)


async def test_the_path_is_open_where_the_server_allows_it(worker: TaskWorker):
    """For whoever enqueues, too; and closed with the connection."""
    async with worker:
        assert worker.is_fast
    assert not worker.is_fast


async def test_the_run_of_a_worker_that_was_given_up_is_void(
    worker: TaskWorker, running: Running, settings: Settings, caplog: pytest.LogCaptureFixture
):
    """Neither a result nor a dead letter: who has taken the task over decides."""
    go = asyncio.Event()

    @worker.task(name="slow")
    async def slow() -> None:
        await go.wait()
        raise ValueError("too late")

    slow.runner = Guard(RetryPolicy(max_tries=1), None, None).wrap(slow)
    async with running(worker):
        task = await slow.enqueue()
        await eventually(lambda: worker.running() == 1)
        stream = worker.stream_key + worker.priorities[-1]
        ((entry, *_),) = [(e.identifier,) for e in await worker.redis.xrange(stream)]
        await worker.redis.xclaim(stream, "workers", "another", 0, [entry])
        go.set()
        await eventually(lambda: worker.counters["superseded"] == 1)
        assert await worker.redis.exists([worker.results_key + task.id]) == 0
        assert await worker.redis.xlen(stream_key(settings.redis_key_prefix)) == 0
        assert await worker.redis.exists([worker.task_key + task.id]) == 1

    assert "slow was taken over by another worker; its run here is void" in caplog.messages


async def test_a_message_of_another_workers_burns_no_try(worker: TaskWorker, running: Running):
    """It is left alone, with its abort mark and its counter."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        task = await noop.enqueue()
        entry = await read_for("another", worker)
        assert worker._library is not None
        for mode in ("1", "0"):
            begun = await worker._library.call(
                "start", (worker.prefix,), ["workers", worker.id, mode, "normal", entry, task.id]
            )
            assert begun == [None]
        await worker._library.call(
            "start", (worker.prefix,), ["workers", worker.id, "+", "normal", entry, task.id]
        )
        assert await worker.redis.exists([worker._retry_key + task.id]) == 0


async def test_what_is_begun_ahead_costs_no_try_until_it_runs(worker: TaskWorker):
    """Whoever is killed before that has taken nothing from it."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        task = await noop.enqueue()
        entry = await read_for(worker.id, worker)
        assert worker._library is not None
        head, place = ["workers", worker.id], ["normal", entry, task.id]
        begun = await worker._library.call("start", (worker.prefix,), [*head, "0", *place])
        ((payload, tries, aborted),) = begun
        assert (payload is not None, tries, aborted) == (True, 1, 0)
        assert await worker.redis.exists([worker._retry_key + task.id]) == 0
        await worker._library.call("start", (worker.prefix,), [*head, "+", *place])
        assert await worker.redis.get(worker._retry_key + task.id) == "1"


async def test_what_was_begun_ahead_and_stands_behind_long_tasks_can_be_aborted(
    worker: TaskWorker, running: Running
):
    """Many short tasks have a worker look ahead; what it saw is asked again when it is old."""
    go = asyncio.Event()
    holding: list[int] = []
    ran: list[int] = []

    @worker.task(name="quick")
    async def quick() -> None: ...

    @worker.task(name="hold")
    async def hold() -> None:
        holding.append(1)
        await go.wait()

    @worker.task(name="late")
    async def late() -> None:
        ran.append(1)

    async with running(worker):
        waiting = [late.enqueue() for _ in range(8)]
        holds = [hold.enqueue() for _ in range(worker.concurrency)]
        await worker.enqueue_many([*(quick.enqueue() for _ in range(600)), *holds, *waiting])
        await eventually(lambda: len(holding) == worker.concurrency)
        for task in waiting:
            await task.abort(timeout=0)
        await asyncio.sleep(FRESH_SECONDS * 1.5)
        go.set()
        results = [await task.result(timeout=10) for task in waiting]

    assert [type(result.exception) for result in results] == [StreaqCancelled] * 8
    assert not ran


async def test_what_a_stopping_worker_has_not_run_is_another_workers_at_once(
    worker: TaskWorker, running: Running, settings: Settings
):
    """No try is counted for it."""
    go = asyncio.Event()
    tries: list[int] = []
    second = TaskWorker(settings)

    async def wait() -> None:
        tries.append(1)
        await go.wait()

    worker.task(name="wait")(wait)

    @second.task(name="wait")
    async def wait_there() -> int:
        return wait_there.context.tries

    async with running(worker):
        tasks = [wait_task(worker).enqueue() for _ in range(40)]
        await worker.enqueue_many(tasks)
        await eventually(lambda: len(tries) == worker.concurrency)
        worker.stop()
        async with running(second):
            results = [await task_in(second, task.id).result(timeout=20) for task in tasks[-5:]]
        go.set()

    assert [result.tries for result in results] == [1] * 5


async def test_long_tasks_that_were_read_for_short_ones_are_another_workers(
    worker: TaskWorker, running: Running, settings: Settings
):
    """After many short tasks one worker has read far ahead; what stands there goes to the other."""
    go = asyncio.Event()
    held: list[TaskWorker] = []
    second = TaskWorker(settings)

    async def hold_here() -> None:
        held.append(worker)
        await go.wait()

    async def hold_there() -> None:
        held.append(second)
        await go.wait()

    @worker.task(name="quick")
    async def quick() -> None: ...

    hold = worker.task(name="hold")(hold_here)
    second.task(name="hold")(hold_there)
    many = 3 * worker.concurrency  # those that run, those that a worker may read ahead, the others
    async with running(worker):
        tasks = [hold.enqueue() for _ in range(many)]
        await worker.enqueue_many([*(quick.enqueue() for _ in range(600)), *tasks])
        await eventually(lambda: len(held) == worker.concurrency)
        async with running(second):
            try:
                await eventually(lambda: held.count(second) == second.concurrency)
            finally:
                go.set()
            results = [await task.result(timeout=10) for task in tasks]

    assert [result.tries for result in results] == [1] * many


async def test_an_end_is_recorded_after_an_outage(stand_in, server: Server, settings: Settings):
    """A server that is back within two seconds costs no second run."""
    stand_in()
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})
    with using_settings(own):
        worker = TaskWorker(own)
        async with worker:
            assert worker._library is not None
            async with Connection(parse_url(server.url)) as listener:
                flow = worker._make_flow(worker._library, listener)
                await asyncio.to_thread(server.kill)
                end = End("s", "normal", "1-1", "task", b"result", 1000)
                recording = asyncio.ensure_future(flow.ends.record(end))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(server.start)
                assert await recording == []


async def test_a_task_that_fails_while_redis_is_away_has_its_letter(
    stand_in, server: Server, settings: Settings
):
    """Its end is recorded when the server is back, and never without the letter."""
    stand_in()
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})

    def restart() -> None:
        time.sleep(0.5)
        server.start()

    with using_settings(own):
        worker = TaskWorker(own)

        @worker.task(name="fail")
        async def fail() -> None:
            await asyncio.to_thread(server.kill)
            restarting.append(asyncio.create_task(asyncio.to_thread(restart)))
            raise ValueError("no")

        restarting: list[asyncio.Task[None]] = []
        fail.runner = Guard(RetryPolicy(max_tries=1), None, None).wrap(fail)
        async with worker:
            await fail.enqueue()
            with suppress(Exception):  # the worker itself begins anew after an outage
                await worker.run_async()
        await asyncio.gather(*restarting)
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            results = [key async for key in redis.scan_iter(match="*:task:results:*")]
            assert len(results) == await redis.xlen(stream_key(own.redis_key_prefix)) == 1


async def test_an_answer_that_is_lost_is_asked_for_again(
    stand_in, settings: Settings, running: Running
):
    """What the server did before the connection broke is known, down to the tasks that fall."""
    stand_in()
    async with lossy_proxy(settings.redis_url or "", b"_finish\r\n") as (url, lost):
        own = settings.model_copy(update={"redis_url": url, "mongodb_url": None})
        with using_settings(own):
            worker = TaskWorker(own)

            @worker.task(name="fail")
            async def fail() -> None:
                raise ValueError("no")

            @worker.task(name="follow")
            async def follow() -> None: ...

            async with running(worker):
                first = fail.enqueue()
                following = follow.enqueue().start(after=first.id)
                await following
                await first
                result = await following.result(timeout=30)
                assert isinstance(result.exception, StreaqError)
                assert "Dependency failed" in str(result.exception)
                assert worker.counters["superseded"] == 0
            assert lost.is_set()


async def test_functions_that_the_server_forgets_are_loaded_again(worker: TaskWorker):
    """As after a restart without a disk."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        names = await _libraries(worker.redis)
        (ours,) = [name for name in names if name.startswith("vibetuner_v1_")]
        await worker.redis.function_delete(ours)
        await noop.enqueue()
        assert await worker.queue_size() == 1
        assert ours in await _libraries(worker.redis)


async def _libraries(redis: Any) -> list[str]:
    return [str(name) for name in await redis.function_list()]


STREAQ_ONLY = " ".join(["-fcall", "-evalsha", *(f"+fcall|{n}" for n in STREAQS_FUNCTIONS.split())])


@pytest.mark.parametrize("server", [STREAQ_ONLY], indirect=True, ids=["streaq's functions only"])
async def test_a_server_that_refuses_our_functions_gets_the_engines_own_way(
    stand_in, server: Server, settings: Settings, running: Running, caplog
):
    """Tasks run, and one line says that they could run faster."""
    caplog.set_level(logging.INFO)
    stand_in()
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})
    with using_settings(own):
        worker = TaskWorker(own)

        @worker.task(name="double")
        async def double(number: int) -> int:
            return 2 * number

        async with running(worker):
            assert not worker.is_fast
            assert (await (await double.enqueue(2)).result(timeout=10)).result == 4

    assert any("refuses functions" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("server", "way"),
    [("-function", "EVALSHA"), ("-fcall", "EVALSHA"), ("-function -script", None)],
    indirect=["server"],
)
async def test_scripts_stand_in_for_functions(server: Server, way: str | None):
    """Where they are refused as well, the library says so."""
    async with Connection(parse_url(server.url)) as connection:
        library = Functions(connection)
        if way is None:
            with pytest.raises(FunctionsRefused, match="refuses functions .* and scripts"):
                await library.load()
            return
        await library.load()
        assert library._heads["enqueue"][0] == way
        values = [1, "an-id", b"payload", 0, 0, "normal", 0]
        assert len(await library.call("enqueue", ("streaq:q",), values)) == 1
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            assert await redis.xlen("streaq:q:queues:normal") == 1


@asynccontextmanager
async def lossy_proxy(url: str, word: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The server by way of a proxy that loses, once, the connection that ``word`` came by.

    The server gets what was sent, and its answer is what is lost.
    """
    there, lost = urlsplit(url), asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(there.hostname, there.port)
        losing = False

        async def bring_answers() -> None:
            while data := await answers.read(65536):
                if losing:
                    lost.set()
                    break
                writer.write(data)
            writer.close()
            server.close()

        back = asyncio.create_task(bring_answers())
        with suppress(OSError):
            while data := await reader.read(65536):
                losing = losing or (word in data and not lost.is_set())
                server.write(data)
        server.close()
        await back

    proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        yield there._replace(netloc=f"127.0.0.1:{port}").geturl(), lost


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


async def read_for(consumer: str, worker: TaskWorker) -> str:
    """Have a consumer read the one message of the queue; returns its id."""
    stream = worker.stream_key + worker.priorities[-1]
    await worker._lib.create_groups(worker.stream_key, "workers", *worker.priorities)
    await worker.redis.xreadgroup("workers", consumer, {stream: ">"}, count=1)
    (entry,) = await worker.redis.xrange(stream)
    return str(entry.identifier)


def wait_task(worker: TaskWorker) -> Any:
    """The task that waits."""
    return worker.registry["wait"]


def task_in(worker: TaskWorker, task_id: str) -> Any:
    """A handle of a task that another has enqueued."""
    task = worker.enqueue_unsafe("wait")
    task.id = task_id
    return task
