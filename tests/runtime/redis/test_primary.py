"""Every connection follows the Sentinels to the next primary."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from coredis.exceptions import ConnectionError as Disconnected

from tests.runtime.conftest import Running
from tests.runtime.sse.test_relay import next_of, relaying
from tests.sentinels import NAME, Replicated
from tests.valkey import FOLLOWS_WITHIN, Valkey, until_it_works
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.blocking import ask
from vibetuner.redis.client import check, make_client, open_redis, ungrouped
from vibetuner.redis.connection import Connection
from vibetuner.redis.url import parse_url
from vibetuner.sse.hub import Hub
from vibetuner.tasks.worker import TaskWorker, using_worker


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    """Run three Sentinels, a primary and two replicas."""
    with Replicated(tmp_path) as replicated:
        yield replicated


async def test_each_way_to_redis_finds_the_primary_and_follows_it(
    replicated: Replicated, caplog: pytest.LogCaptureFixture
):
    """The engine's connection, the client and the probe follow the primary.

    A change is one line in the log.
    """
    address, old = parse_url(replicated.url), replicated.primary
    settings = Settings(redis_url=replicated.url, redis_key_prefix="own")
    await check(settings)
    async with Connection(address) as connection, open_redis(settings) as client:
        assert await connection.call("SET", "key", "before") == b"OK"
        assert await client.get("key") == "before"
        assert await asyncio.to_thread(ask, address, ["GET", "key"]) == ["before"]

        replicated.kill(old)
        promoted = await asyncio.to_thread(replicated.wait_for_promotion, old)
        await until_it_works(lambda: connection.call("SET", "key", "after"))
        await until_it_works(lambda: client.set("other", "after"))

        assert time.monotonic() - promoted < FOLLOWS_WITHIN
        found = await asyncio.to_thread(ask, address, ["MGET", "key", "other"])
        assert found == [["after", "after"]]
    assert [line for line in caplog.messages if "the Redis primary is now" in line] == [
        f"the Redis primary is now 127.0.0.1:{replicated.primary}, was 127.0.0.1:{old}"
    ]


async def test_sentinels_that_are_all_slow_are_waited_for(replicated: Replicated):
    """A connection waits while all Sentinels are frozen.

    A frozen one is ignored after a second, but only if another has answered.
    """

    async def ping() -> bytes:
        async with Connection(parse_url(replicated.url)) as connection:
            return bytes(await connection.call("PING"))

    for port in replicated.sentinels:
        replicated.freeze(port)
    pinging = asyncio.create_task(ping())
    assert not (await asyncio.wait([pinging], timeout=1.3))[0]
    for port in replicated.sentinels:
        replicated.thaw(port)
    assert await pinging == b"PONG"


async def test_a_frozen_sentinel_delays_nobody(replicated: Replicated):
    """Once most Sentinels name one primary, the others are not waited for: each took a second."""
    address = parse_url(replicated.url)
    settings = Settings(redis_url=replicated.url)
    replicated.freeze(replicated.sentinels[-1])
    began = time.monotonic()
    for _ in range(10):
        async with Connection(address) as connection:
            assert await connection.call("PING") == b"PONG"
        await check(settings)
        assert await asyncio.to_thread(ask, address, ["PING"]) == ["PONG"]
    assert time.monotonic() - began < 20  # instead of at least 30


async def test_who_connects_to_a_frozen_primary_goes_on_with_the_next_one(replicated: Replicated):
    """A connection that is being made to a frozen primary is made to the next one instead.

    The kernel still accepts it for a frozen process, so it would wait for a greeting.
    """
    address, old = parse_url(replicated.url), replicated.primary
    settings, promoted = Settings(redis_url=replicated.url), asyncio.Event()

    async def connect() -> bytes:
        while True:
            try:
                async with Connection(address) as connection:
                    return bytes(await connection.call("PING"))
            except Disconnected:
                assert not promoted.is_set()

    async def borrow() -> object:
        with ungrouped():
            async with make_client(settings) as client:
                return await client.get("key")

    await check(settings)
    replicated.freeze(old)
    waiting = [asyncio.create_task(connect()), asyncio.create_task(borrow())]
    at = await asyncio.to_thread(replicated.wait_for_promotion, old)
    promoted.set()
    assert await asyncio.gather(*waiting) == [b"PONG", None]
    assert time.monotonic() - at < FOLLOWS_WITHIN


async def test_subscribers_leave_a_frozen_primary(replicated: Replicated):
    """Subscribers and blocking calls leave a frozen primary, which closes no connection."""
    lost, old = asyncio.Event(), replicated.primary
    address = parse_url(replicated.url)
    async with Connection(address, on_push=lambda _: None, on_loss=lost.set) as connection:
        await connection.tell("SUBSCRIBE", "news")
        replicated.freeze(old)
        waiting = connection.call("BLPOP", "nothing", 0)
        promoted = await asyncio.to_thread(replicated.wait_for_promotion, old)
        async with asyncio.timeout(60):
            await lost.wait()
        assert time.monotonic() - promoted < FOLLOWS_WITHIN
        with pytest.raises(Disconnected, match=r"the primary is now|refused|subscribe"):
            raise waiting.exception() or AssertionError("it was answered")


async def test_a_server_that_is_no_primary_is_not_written_to(replicated: Replicated):
    """A server that is no primary is not used, whatever the Sentinels report."""
    address, old = parse_url(replicated.url), replicated.primary
    other = next(port for port in replicated.servers if port != old)
    for port in replicated.sentinels:
        replicated.freeze(port)  # so that they don't correct it
    replicated.on(old, "REPLICAOF", "127.0.0.1", str(other))
    for port in replicated.sentinels:
        replicated.thaw(port)
    reason = f"127.0.0.1:{old} is a (slave|replica), though Sentinels call it the primary"
    with pytest.raises(OSError, match=reason):
        await asyncio.to_thread(ask, address, ["GET", "key"])
    with pytest.raises(Disconnected, match=reason):
        async with Connection(address):
            pass
    with pytest.raises(ServiceUnavailable, match=reason):
        async with open_redis(Settings(redis_url=replicated.url)) as client:
            await client.set("key", "value")


async def test_sentinels_ask_for_their_own_password(tmp_path: Path):
    """Sentinels may require another user and password than the servers."""
    options = ("--user", "app", "on", ">a/b", "~*", "&*", "+@all")
    rules = ("user default on nopass ~* &* +@all", "user guide on >c@d +@all ~* &*")
    with Replicated(tmp_path, options=options, sentinel_options=rules) as replicated:
        for port in replicated.sentinels:
            replicated.on(port, "ACL", "SETUSER", "default", "-@all", "+@connection")
        url = replicated.url.replace("://", "://app:a%2Fb@")
        own = "?sentinel_username=guide&sentinel_password=c%40d"
        address = parse_url(url + own)
        async with Connection(address) as connection:
            assert b"app" in await connection.call("CLIENT", "INFO")
        found = await asyncio.to_thread(ask, address, ["ACL", "WHOAMI"])
        assert found == ["app"]
        await check(Settings(redis_url=url + own))
        with pytest.raises(ServiceUnavailable, match=r"no Sentinel names the primary \(.*NOPERM"):
            await check(Settings(redis_url=url))


async def test_a_name_that_no_sentinel_knows_is_one_line(replicated: Replicated):
    """A name that no Sentinel knows is one line, in the check and in the probe."""
    url = replicated.url.replace(NAME, "other")
    with pytest.raises(ServiceUnavailable, match=r"the name is unknown\)\. Start it") as caught:
        await check(Settings(redis_url=url))
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match=r"no Sentinel names the primary \(the name is unknown\)"):
        await asyncio.to_thread(ask, parse_url(url), ["PING"])


async def test_clients_leave_a_primary_that_becomes_a_replica(tmp_path: Path):
    """Clients leave a primary that becomes a replica, as at a managed service with one name."""
    with Valkey(tmp_path) as valkey:
        settings = valkey.settings
        async with (
            Connection(parse_url(valkey.url)) as connection,
            open_redis(settings) as client,
        ):
            before = await connection.call("CLIENT", "ID")
            replica_of = ["REPLICAOF", "127.0.0.1", "1"]
            await asyncio.to_thread(ask, parse_url(valkey.url), replica_of)
            with pytest.raises(Disconnected, match="is no primary, or not ready: READONLY"):
                await connection.call("SET", "key", "value")
            with pytest.raises(Disconnected, match="is no primary, or not ready"):
                await client.set("key", "value")
            await asyncio.to_thread(ask, parse_url(valkey.url), ["REPLICAOF", "NO", "ONE"])
            assert await until_it_works(lambda: client.set("key", "value"))
            assert await connection.call("GET", "key") == b"value"
            assert await connection.call("CLIENT", "ID") != before


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_events_go_on_with_the_next_primary(replicated: Replicated, how: str):
    """Subscribers get events again within seconds of a promotion."""
    settings, old = Settings(redis_url=replicated.url, redis_key_prefix="own"), replicated.primary
    async with relaying(settings, Hub()) as (subscriber, history):
        await history.send("news", "message", "before")
        assert await next_of(subscriber) == [("message", "before")]
        await asyncio.to_thread(ask, parse_url(replicated.url), ["WAIT", "2", "1000"])

        getattr(replicated, how)(old)
        promoted = await asyncio.to_thread(replicated.wait_for_promotion, old)
        await until_it_works(lambda: history.send("news", "message", "after"))

        assert ("message", "after") in await next_of(subscriber)
        assert time.monotonic() - promoted < FOLLOWS_WITHIN


@asynccontextmanager
async def working(replicated: Replicated, running: Running) -> AsyncIterator[TaskWorker]:
    """Run a worker with a task that returns its number."""
    settings = Settings(redis_url=replicated.url, redis_key_prefix="own", secret_key="of the test")
    with using_settings(settings):
        worker = TaskWorker(settings)

        @worker.task(name="number")
        async def number(value: int) -> int:
            return value

        with using_worker(worker):
            async with running(worker):
                yield worker


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_worker_goes_on_with_the_next_primary(
    stand_in: Callable[[], None],
    replicated: Replicated,
    running: Running,
    caplog: pytest.LogCaptureFixture,
    how: str,
):
    """Tasks, results and delayed tasks go on with the next primary, within seconds."""
    stand_in()
    caplog.set_level(logging.INFO)
    old = replicated.primary
    async with working(replicated, running) as worker:
        number = worker.registry["number"]
        assert (await (await number.enqueue(1)).result(timeout=30)).result == 1
        late = number.enqueue(2).start(delay=1)
        await late
        waiting = asyncio.create_task(late.result(timeout=30))
        await asyncio.to_thread(ask, parse_url(replicated.url), ["WAIT", "2", "1000"])

        getattr(replicated, how)(old)
        promoted = await asyncio.to_thread(replicated.wait_for_promotion, old)

        async def enqueue() -> int:
            return int((await (await number.enqueue(3)).result(timeout=30)).result)

        assert await until_it_works(enqueue) == 3
        assert time.monotonic() - promoted < FOLLOWS_WITHIN
        assert (await waiting).result == 2
        await eventually(lambda: worker.running() == 0)
    assert len([line for line in caplog.messages if "the Redis primary is now" in line]) == 1
