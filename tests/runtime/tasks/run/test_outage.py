"""Outages: running tasks go on, their ends are recorded afterwards, and nothing runs twice."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from coredis import Redis
from coredis.exceptions import RedisError
from streaq import StreaqError, StreaqRetry

from tests.listeners import open_proxy
from tests.runtime.conftest import Running
from tests.runtime.tasks.run.conftest import lossy_proxy
from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.blocking import ask
from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions, FunctionsRefused
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.redis.url import Address, parse_url
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.mark.parametrize("loss", ["CLIENT KILL", "FUNCTION FLUSH", "FLUSHALL"])
async def test_free_slots_go_on_beside_a_long_task(
    worker: TaskWorker, running: Running, caplog: pytest.LogCaptureFixture, loss: str
):
    """Free slots run tasks as soon as Redis is back; the loss and the return are logged once."""
    caplog.set_level(logging.INFO)
    go = asyncio.Event()

    @worker.task(name="long")
    async def long() -> None:
        await go.wait()

    @worker.task(name="quick")
    async def quick() -> int:
        return 1

    async with running(worker):
        await long.enqueue()
        await eventually(lambda: worker.running() == 1)
        if loss == "CLIENT KILL":
            address = worker.client.functions.connection.address
            kill = ["CLIENT", "KILL", "TYPE", "normal"]
            await asyncio.to_thread(ask, address, kill)
        elif loss == "FUNCTION FLUSH":
            await worker.redis.function_flush()
        else:
            await worker.redis.flushall()

        async def enqueue() -> Any:
            with suppress(RedisError, ExceptionGroup, ServiceUnavailable):
                return await quick.enqueue()

        task = await eventually(enqueue, what=lambda: "Redis to be back")
        assert (await task.result(timeout=30)).result == 1
        assert worker.running() == 1
        go.set()
        await eventually(lambda: worker.running() == 0)
        lost = [line for line in caplog.messages if "running tasks go on" in line]
        assert len(lost) <= 1
        await eventually(lambda: caplog.messages.count("Redis is back") == len(lost))


async def test_a_task_that_fails_while_redis_is_away_has_its_letter(
    stand_in, server: Valkey, settings: Settings, running: Running
):
    """A failure during an outage is recorded when Redis is back, together with its dead letter."""
    stand_in()
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})
    with using_settings(own):
        worker = TaskWorker(own)
        with using_worker(worker):

            @robust_task(max_retries=1, name="fail")
            async def fail() -> None:
                await asyncio.to_thread(server.kill)
                raise ValueError("no")

        async with running(worker):
            await fail.enqueue()
            await eventually(lambda: worker.counters["failed"] == 1)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(server.start)
            async with Redis.from_url(server.url, decode_responses=True) as redis:
                stream = Keys(own.redis_key_prefix).letters
                letters = await eventually(lambda: redis.xlen(stream))
                results = [key async for key in redis.scan_iter("*:task:results:*", count=10_000)]
                assert len(results) == letters == 1


async def test_a_changed_password_is_named(
    stand_in,
    server: Valkey,
    settings: Settings,
    running: Running,
    caplog: pytest.LogCaptureFixture,
):
    """A worker logs WRONGPASS after a change of the password, and goes on once it is valid."""
    stand_in()
    caplog.set_level(logging.INFO)
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})
    address = parse_url(server.url.replace("tester:x@", "admin:y@"))
    ask(parse_url(server.url), ["ACL", "SETUSER", "admin", "on", ">y", "~*", "&*", "+@all"])
    with using_settings(own):
        worker = TaskWorker(own)

        @worker.task(name="quick")
        async def quick() -> int:
            return 1

        async with running(worker):
            await asyncio.to_thread(ask, address, ["ACL", "SETUSER", "tester", "resetpass", ">z"])
            await asyncio.to_thread(ask, address, ["CLIENT", "KILL", "USER", "tester"])
            await eventually(lambda: "Redis refuses (WRONGPASS" in caplog.text)
            await asyncio.to_thread(ask, address, ["ACL", "SETUSER", "tester", ">x"])
            await eventually(lambda: "Redis is back" in caplog.messages)
            assert (await (await quick.enqueue()).result(timeout=30)).result == 1


@pytest.mark.parametrize("loss", ["FLUSHALL", "empty restart"])
async def test_an_emptied_server_loses_no_end_of_a_running_task(  # noqa: PLR0917 - fixtures
    stand_in,
    server: Valkey,
    settings: Settings,
    running: Running,
    caplog: pytest.LogCaptureFixture,
    loss: str,
):
    """After FLUSHALL, each end is recorded once, and a task to be tried again is enqueued again."""
    stand_in()
    go = asyncio.Event()
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})
    with using_settings(own):
        worker = TaskWorker(own)
        with using_worker(worker):

            @robust_task(max_retries=1, name="fail")
            async def fail() -> None:
                await go.wait()
                raise ValueError("no")

        @worker.task(name="succeed", ttl=timedelta(hours=1))
        async def succeed() -> int:
            await go.wait()
            return 1

        @worker.task(name="again")
        async def again() -> int:
            if not go.is_set():
                await go.wait()
                raise StreaqRetry(delay=0)
            return 2

        async with running(worker):
            done, failed, retried = [await task.enqueue() for task in (succeed, fail, again)]
            await eventually(lambda: worker.running() == 3)
            if loss == "FLUSHALL":
                await worker.redis.flushall()
            else:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            async with Redis.from_url(server.url, decode_responses=True) as redis:
                keys = Keys(own.redis_key_prefix)
                # An end that comes before that finds no stream, so nobody can have taken it over.
                await eventually(lambda: redis.exists([keys.made]))
                await asyncio.sleep(1)  # until then nobody else can claim it, and nobody asks
                go.set()
                assert (await done.result(timeout=30)).result == 1
                assert (await retried.result(timeout=30)).result == 2
                assert isinstance((await failed.result(timeout=30)).exception, ValueError)
                await eventually(lambda: worker.running() == 0)
                assert await redis.xlen(keys.letters) == 1
                assert await redis.xlen(keys.journal.ended) == 3
    assert worker.counters["superseded"] == 0


async def test_only_the_last_owner_records_the_end_of_a_lost_task(worker: TaskWorker):
    """The first end that two workers report for a lost task is recorded, and the second is not."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        await noop.enqueue()
        functions, keys = worker.client.functions, worker.client.keys
        groups = ["workers", 86_400_000, "normal"]
        await functions.call("make_groups", (keys.queue,), groups)
        head = ["workers", worker.id, 60_000, 0]
        now, priority, message, task, *_ = await functions.call(
            "claim", (keys.queue,), [*head, 1, 1, "normal", 1]
        )
        end = ["s", priority, message, task, now, b"done", 0, "noop", "done", "", "", 0]
        await worker.redis.flushall()
        await functions.call("make_groups", (keys.queue,), groups)

        of_all = (keys.queue, keys.letters, keys.letter_places, keys.prefix)
        replies = [
            await functions.call("finish", of_all, [*head, now, step, 0, *end])
            for step in ("one", "another")
        ]
    assert replies == [[], [[1]]]


@pytest.mark.parametrize("kind", ["s", "r"])
async def test_a_replica_that_never_got_a_task_records_its_end(worker: TaskWorker, kind: str):
    """A promoted replica without the message records an end before the claim would have expired.

    Until then nobody else can have taken the task over. A renewal prolongs the claim all the same.
    """

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        await noop.enqueue()
        functions, keys = worker.client.functions, worker.client.keys
        await functions.call("make_groups", (keys.queue,), ["workers", 86_400_000, "normal"])
        head = ["workers", worker.id, 60_000, 0]
        now, priority, message, task, *_ = await functions.call(
            "claim", (keys.queue,), [*head, 1, 1, "normal", 1]
        )
        stream = keys.stream("normal")
        await worker.redis.xdel(stream, [message])
        await worker.redis.xgroup_destroy(stream, "workers")
        await worker.redis.xgroup_create(stream, "workers", "0")
        await worker.redis.delete([keys.data(task.decode())])
        await worker.redis.hset(keys.made, {"normal": "0"})  # the stream is older than the claim
        of_all = (keys.queue, keys.letters, keys.letter_places, keys.prefix)

        async def report(step: str, claimed: int) -> Any:
            end = [kind, priority, message, task, claimed, b"1", 0, "noop", "done", "", "", 0]
            return await functions.call("finish", of_all, [*head, now, step, 0, *end])

        renewal = ["workers", worker.id, "", 60_000, priority, message, task]
        assert (await functions.call("renew", (keys.queue,), [*renewal, now]))[1] == 1
        assert (await functions.call("renew", (keys.queue,), [*renewal, now - 60_000]))[1] == 0
        assert await report("late", now - 60_000) == [[1]]
        assert await report("in time", now) == ([] if kind == "s" else [[1, b"?"]])
        assert await report("again", now) == [[1]]


async def test_a_lost_answer_is_asked_for_again(stand_in, settings: Settings, running: Running):
    """A command whose answer was lost is sent again, and still fails the task's dependents."""
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
                following = await follow.enqueue().start(after=first)
                result = await following.result(timeout=30)
                assert isinstance(result.exception, StreaqError)
                assert "Dependency failed" in str(result.exception)
                assert worker.counters["superseded"] == 0
            assert lost.is_set()


async def test_functions_that_the_server_forgets_are_loaded_again(worker: TaskWorker):
    """A server that has lost its functions, as by a restart without a disk, gets them again."""

    @worker.task(name="noop")
    async def noop() -> None: ...

    async with worker:
        await worker.redis.function_flush()
        await noop.enqueue()
        assert await worker.queue_size() == 1
        names = [str(name) for name in await worker.redis.function_list()]
        assert [name for name in names if name.startswith("vibetuner_v1_")]


async def test_an_attempt_whose_count_was_refused_counts(
    stand_in, settings: Settings, running: Running
):
    """A task that fails before its count is sent again is tried as often as it may be, not more.

    While a Cluster moved the queue's slot, such a task was tried once too often now and then.
    """
    stand_in()
    address, ids, runs = parse_url(settings.redis_url or ""), [b"not enqueued yet"], 0

    async def on_answer(data: bytes) -> None:
        if ids[0] in data:  # the task is claimed; its count will be refused
            ids[0] = b"not again"
            await direct.call("FUNCTION", "FLUSH")

    async with open_proxy(address, on_answer=on_answer) as port, Connection(address) as direct:
        own = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        with using_settings(own):
            worker = TaskWorker(own)

            @worker.task(name="fail", max_tries=2)
            async def fail() -> None:
                nonlocal runs
                runs += 1
                raise StreaqRetry("again", delay=0)

            async with worker:
                task = await fail.enqueue()
                ids[0] = task.id.encode()
                async with running(worker):
                    await eventually(lambda: worker.counters["failed"])
    assert ids == [b"not again"]
    assert runs == 2


async def test_a_flush_costs_no_cron_task_its_schedule(worker: TaskWorker, running: Running):
    """A worker restores the schedules of its cron tasks on an emptied server."""

    @worker.cron("0 0 1 1 *", name="yearly")
    async def yearly() -> None: ...

    async with running(worker):
        await worker.redis.flushall()
        schedule = worker.client.keys.cron_schedule
        assert await eventually(lambda: worker.redis.zscore(schedule, "yearly"))


@pytest.mark.parametrize("server", ["-function", "-fcall"], indirect=True)
async def test_scripts_stand_in_for_functions(
    stand_in, server: Valkey, settings: Settings, running: Running
):
    """Tasks and chains run by scripts on a server that refuses functions."""
    stand_in()
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})
    with using_settings(own):
        worker = TaskWorker(own)

        @worker.task(name="double")
        async def double(number: int) -> int:
            return 2 * number

        async with running(worker):
            chain = await double.enqueue(2).then(double)
            assert (await chain.result(timeout=30)).result == 8


@pytest.mark.parametrize("server", ["-function -script -eval -evalsha"], indirect=True)
async def test_a_server_that_refuses_both_is_an_error_at_the_start(server: Valkey):
    """A server that refuses functions and scripts raises FunctionsRefused."""
    async with Connection(parse_url(server.url)) as connection:
        with pytest.raises(FunctionsRefused, match="refuses functions .* and scripts"):
            await Functions(connection).load()


async def read_as(worker: TaskWorker, connection: Connection, **options: int) -> Any:
    """Claim a message as if by a read of the worker's own whose answer it never gets."""
    keys = worker.client.keys
    block = [word for name, value in options.items() for word in (name.upper(), value)]
    return await connection.call(
        "XREADGROUP", "GROUP", GROUP, worker.id, "COUNT", 1, *block,
        "STREAMS", keys.stream("normal"), ">",
    )  # fmt: skip


async def test_a_read_that_went_on_after_the_stop_keeps_no_message(
    stand_in, settings: Settings, running: Running
):
    """A stopping worker requeues what the server gave its last read after it was asked for that.

    The server may notice that the read's connection is closed only after its answer.
    """
    stand_in()
    address = parse_url(settings.redis_url or "")
    go, asked, claimed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    message: list[bytes] = []

    async def on_answer(data: bytes) -> None:
        if message and message[0] in data and not asked.is_set():
            asked.set()
            await claimed.wait()

    async with open_proxy(address, on_answer=on_answer) as port, Connection(address) as direct:
        own = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        with using_settings(own):
            worker = TaskWorker(own)
            worker.concurrency = 1

            @worker.task(name="wait")
            async def wait(number: int) -> int:
                await go.wait()
                return number

            async with worker:
                async with running(worker):
                    await wait.enqueue(1)
                    await eventually(lambda: worker.running() == 1)
                    stream = worker.client.keys.stream("normal")
                    [[message_id, *_]] = await direct.call("XPENDING", stream, GROUP, "-", "+", 9)
                    task = await wait.enqueue(2)
                    message.append(message_id)
                    worker.stop()
                    await asked.wait()
                    assert await read_as(worker, direct)
                    claimed.set()
                    go.set()
                async with running(worker):
                    assert (await task.result(timeout=30)).result == 2


async def test_a_read_that_went_on_after_a_loss_keeps_no_message(
    worker: TaskWorker, settings: Settings, running: Running
):
    """A message that the server gives to a read whose connection was lost is requeued soon."""

    @worker.task(name="add")
    async def add(number: int) -> int:
        return number + 1

    address = parse_url(settings.redis_url or "")
    # A worker of an earlier test may have left a read.
    [since] = await asyncio.to_thread(ask, address, ["CLIENT", "ID"])
    async with running(worker):
        async with Connection(address) as connection:
            took, tries = 1.0, 30
            while took >= 1 and (tries := tries - 1):  # a read goes on for no more than a second
                (own,) = await blocked(address, 1, since)
                going_on = asyncio.ensure_future(read_as(worker, connection, block=30_000))
                await blocked(address, 2, since)
                began = asyncio.get_running_loop().time()
                await asyncio.to_thread(ask, address, ["CLIENT", "KILL", "ID", own])
                await blocked(address, 2, since, without=own)
                task = await add.enqueue(1)
                assert await going_on
                took = asyncio.get_running_loop().time() - began
            assert (await task.result(timeout=30)).result == 2


async def blocked(address: Address, number: int, since: Any, *, without: str = "") -> list[str]:
    """Return the ids of the connections that block, of those made later, once there are so many."""

    async def found() -> list[str]:
        [listed] = await asyncio.to_thread(ask, address, ["CLIENT", "LIST"])
        ids = re.findall(r"(?m)^id=(\d+) .* flags=b .* cmd=xreadgroup", str(listed))
        ids = [one for one in ids if int(one) > since]
        return ids if len(ids) == number and without not in ids else []

    return await eventually(found)
