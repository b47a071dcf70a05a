"""A queue in a Cluster is on one node, and every connection follows its slot."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from coredis.exceptions import AskError, RedisError

from tests.clusters import PREFIX, Clustered
from tests.processes import free_port, run_vibetuner, vibetuner
from tests.projects import write_shop
from tests.runtime.conftest import Running
from tests.runtime.redis import test_reach
from tests.runtime.sse.test_relay import next_of, relaying
from tests.valkey import FOLLOWS_WITHIN, Valkey, until_it_works
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.blocking import ask
from vibetuner.redis.client import check, open_redis
from vibetuner.redis.connection import Connection, WrongNodeError
from vibetuner.redis.url import Address, Tls, parse_url
from vibetuner.sse.hub import Hub
from vibetuner.tasks import dead_letters
from vibetuner.tasks.inspect.listing import list_tasks
from vibetuner.tasks.inspect.model import Filters
from vibetuner.tasks.inspect.queue import this_queue
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.unique import Unique
from vibetuner.tasks.worker import TaskWorker, using_worker

certificates = test_reach.certificates


@pytest.fixture
def cluster(clustered: Clustered) -> Iterator[Clustered]:
    """Yield the session's Cluster, empty; make it whole again afterwards."""
    clustered.on(clustered.primary, "FLUSHALL")
    yield clustered
    clustered.heal()


def address_of(cluster: Clustered) -> Address:
    return parse_url(cluster.url, PREFIX)


def settings_of(cluster: Clustered) -> Settings:
    return Settings(
        environment="test",
        redis_url=cluster.url,
        redis_key_prefix=PREFIX,
        secret_key="a key that the tests share, and nobody else",
    )


def other_than(cluster: Clustered, port: int) -> int:
    return next(one for one in cluster.primaries if one != port)


def changes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "the Redis primary is now" in line]


async def test_each_way_to_redis_finds_the_node_and_follows_it(
    cluster: Clustered, caplog: pytest.LogCaptureFixture
):
    """The engine's connection, the client and the probe find the node, and the next primary.

    A change is one line in the log.
    """
    address, settings, old = address_of(cluster), settings_of(cluster), cluster.primary
    key, other = f"{PREFIX}key", f"{PREFIX}other"
    await check(settings)
    async with Connection(address) as connection, open_redis(settings) as client:
        assert await connection.call("SET", key, "before") == b"OK"
        assert await client.get(key) == "before"
        assert await asyncio.to_thread(ask, address, ["GET", key]) == ["before"]

        cluster.kill(old)
        promoted = await asyncio.to_thread(cluster.wait_for_promotion, old)
        await until_it_works(lambda: connection.call("SET", key, "after"))
        await until_it_works(lambda: client.set(other, "after"))

        assert time.monotonic() - promoted < FOLLOWS_WITHIN
        found = await asyncio.to_thread(ask, address, ["MGET", key, other])
        assert found == [["after", "after"]]
    assert changes(caplog) == [
        f"the Redis primary is now 127.0.0.1:{cluster.primary}, was 127.0.0.1:{old}"
    ]


async def test_one_node_that_answers_is_enough(cluster: Clustered):
    """One node that answers is enough, even a replica, as each node knows all the others."""
    old = cluster.primary
    listed = next(port for port in cluster.nodes if port not in cluster.primaries)
    address = parse_url(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{listed}", PREFIX)
    async with Connection(address) as connection:
        assert await connection.call("CLUSTER", "KEYSLOT", PREFIX) == cluster.slot
        assert await asyncio.to_thread(ask, address, ["GET", PREFIX]) == [None]
        cluster.kill(listed)
        cluster.on(old, "CLIENT", "KILL", "TYPE", "normal")
        assert await until_it_works(lambda: connection.call("SET", f"{PREFIX}k", "v")) == b"OK"
    assert cluster.primary == old


async def test_commands_wait_for_a_slot_that_moves(cluster: Clustered):
    """Commands on keys that have moved wait until the new node has the slot.

    A pipeline is repeated if all of it was refused, or if it only reads.
    """
    old = cluster.primary
    target = other_than(cluster, old)
    settings, keys = settings_of(cluster), [f"{PREFIX}key:{n}" for n in range(20)]
    async with open_redis(settings) as client:
        for key in keys:
            await client.set(key, "v")

        async def read_all() -> list[str | None]:
            async with client.pipeline(transaction=False) as pipe:
                found = [pipe.get(key) for key in keys]
            return list(await asyncio.gather(*found))

        async def count_all() -> list[int]:
            async with client.pipeline() as pipe:
                for key in keys:
                    pipe.incr(f"{key}:count")
            return list(pipe.results or ())

        with cluster.moving(target):
            asked = [asyncio.ensure_future(client.get(key)) for key in keys]
            together = asyncio.ensure_future(asyncio.gather(read_all(), count_all()))
            done, waiting = await asyncio.wait(asked, timeout=0.2)
            assert {one.result() for one in done} == {"v"}
            assert waiting
            assert not together.done()
            with pytest.raises(AskError):
                async with client.pipeline(transaction=False) as writing:
                    writing.set(f"{PREFIX}new", "v")
        async with asyncio.timeout(60):
            assert await asyncio.gather(*asked) == ["v"] * len(keys)
            assert await together == [["v"] * len(keys), [1] * len(keys)]
    assert cluster.primary == target


async def test_a_worker_that_starts_while_its_slot_moves_waits(
    stand_in: Callable[[], None], cluster: Clustered, running: Running
):
    """A worker that starts while its slot moves waits until the move ends.

    The new node has none of our functions.
    """
    stand_in()
    target = other_than(cluster, cluster.primary)
    cluster.on(target, "FUNCTION", "FLUSH")

    async def count() -> int:
        async with working(cluster, running) as worker:
            task = await worker.registry["number"].enqueue(7)
            return int((await task.result(timeout=30)).result)

    with cluster.moving(target):
        counting = asyncio.create_task(count())
        assert not (await asyncio.wait([counting], timeout=0.3))[0]
    async with asyncio.timeout(60):
        assert await counting == 7


@asynccontextmanager
async def working(cluster: Clustered, running: Running) -> AsyncIterator[TaskWorker]:
    """Run a worker with a task of each kind."""
    settings, runs = settings_of(cluster), 0
    with using_settings(settings):
        worker = TaskWorker(settings)

        @worker.task(name="number")
        async def number(value: int) -> int:
            return value

        @worker.cron("0 0 1 1 *", name="yearly")
        async def yearly() -> str:
            return "a year"

        with using_worker(worker):

            @robust_task(name="break_down", max_retries=2, backoff_max=0.01)
            async def break_down(*, tries: int) -> int:
                nonlocal runs
                runs += 1
                if runs < tries:
                    raise ValueError("broken")
                return runs

            @robust_task(name="sum_up", unique=Unique(clash="skip"))
            async def sum_up() -> str:
                await asyncio.sleep(0.2)
                return "summed"

            async with running(worker):
                yield worker


async def test_each_kind_of_task_works(
    stand_in: Callable[[], None], cluster: Clustered, running: Running
):
    """Each kind of task works: retries, dead letters, once, unique, cron, chains and delays."""
    stand_in()
    async with working(cluster, running) as worker:
        number, break_down = worker.registry["number"], worker.registry["break_down"]
        assert (await (await number.enqueue(1).then(number)).result(timeout=30)).result == 1
        assert (await (await number.enqueue(2).start(delay=0.05)).result(timeout=30)).result == 2

        calls = [await number.enqueue(3).once("key") for _ in range(2)]
        assert calls[0].id == calls[1].id
        unique = [await worker.registry["sum_up"].enqueue() for _ in range(2)]
        assert unique[0].id == unique[1].id
        assert (await unique[0].result(timeout=30)).result == "summed"

        broken = await break_down.enqueue(tries=3)
        assert not (await broken.result(timeout=30)).success
        assert await dead_letters.count() == 1
        assert [group.count for group in await dead_letters.groups()] == [1]
        again = await dead_letters.retry(broken.id)
        assert (await worker.result_by_id(again, timeout=30)).result == 3

        delayed = worker.client.keys.delayed(worker.queue_of("yearly"))
        (run,) = await worker.redis.zrange(delayed, 0, -1)
        await worker.redis.zadd(delayed, {run: 0})
        await worker.queue_due()
        await eventually(lambda: _ended(worker, "yearly"))

        names = [row.name for row in (await list_tasks(this_queue(), Filters(), limit=50)).rows]
        assert sorted(set(names)) == ["break_down", "number", "sum_up", "yearly"]


async def _ended(worker: TaskWorker, name: str) -> int:
    return await worker.redis.xlen(worker.client.keys.journal.of(name))


@pytest.mark.slow
async def test_a_slot_that_moves_under_load_loses_nothing(
    stand_in: Callable[[], None],
    cluster: Clustered,
    running: Running,
    caplog: pytest.LogCaptureFixture,
):
    """While the slot moves there and back under load, each task runs exactly once."""
    stand_in()
    caplog.set_level(logging.INFO)
    old, enqueued, chained, done = cluster.primary, 0, 0, asyncio.Event()
    target = other_than(cluster, old)
    async with working(cluster, running) as worker:
        number, keys = worker.registry["number"], worker.client.keys
        break_down = worker.registry["break_down"]

        async def load() -> None:
            nonlocal enqueued
            while not done.is_set():
                await number.enqueue(enqueued)
                enqueued += 1

        async def chain() -> None:
            nonlocal chained
            while not done.is_set():
                chained, value = chained + 1, chained
                last = await number.enqueue(value).then(number).then(number)
                once = [await number.enqueue(value).once(f"key {value}") for _ in range(2)]
                assert once[0].id == once[1].id
                assert (await last.result(timeout=30)).result == value
                broken = await break_down.enqueue(tries=1_000_000)
                assert not (await broken.result(timeout=30)).success

        loads = [asyncio.create_task(one()) for one in (load, load, load, chain, chain)]
        for source, there in ((old, target), (target, old)):
            await eventually(lambda before=enqueued: enqueued > before + 50)
            await eventually(lambda before=chained: chained > before)
            cluster.begin_move(source, there)
            await asyncio.to_thread(cluster.move_keys, source, there)
            cluster.end_move(there)
            await eventually(lambda before=enqueued: enqueued > before + 50)
            await eventually(lambda before=chained: chained > before)
        done.set()
        await asyncio.gather(*loads)
        ends = enqueued + 4 * chained
        await eventually(lambda: _has_ended(worker, ends), what=lambda: f"{ends} ends")
        assert await worker.redis.xlen(keys.journal.of("number")) == ends
        assert worker.counters["completed"] == ends
        assert worker.counters["retried"] == worker.counters["failed"] == chained
        assert await dead_letters.count() == chained
    assert len(changes(caplog)) == 2


async def _has_ended(worker: TaskWorker, number: int) -> bool:
    return await _ended(worker, "number") >= number and worker.running() == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_worker_goes_on_with_the_next_primary(
    stand_in: Callable[[], None],
    cluster: Clustered,
    running: Running,
    caplog: pytest.LogCaptureFixture,
    how: str,
):
    """Tasks, events and delayed tasks go on with the next primary, within seconds."""
    stand_in()
    caplog.set_level(logging.INFO)
    old = cluster.primary
    async with (
        working(cluster, running) as worker,
        relaying(settings_of(cluster), Hub()) as (subscriber, history),
    ):
        number = worker.registry["number"]
        assert (await (await number.enqueue(1)).result(timeout=30)).result == 1
        late = await number.enqueue(2).start(delay=1)
        await history.send("news", "message", "before")
        assert await next_of(subscriber) == [("message", "before")]
        waiting = asyncio.create_task(late.result(timeout=30))
        await asyncio.to_thread(cluster.on, old, "WAIT", "1", "1000")

        getattr(cluster, how)(old)
        promoted = await asyncio.to_thread(cluster.wait_for_promotion, old)

        async def enqueue() -> int:
            return int((await (await number.enqueue(3)).result(timeout=30)).result)

        assert await until_it_works(enqueue) == 3
        await until_it_works(lambda: history.send("news", "message", "after"))
        assert ("message", "after") in await next_of(subscriber)
        assert time.monotonic() - promoted < FOLLOWS_WITHIN
        assert (await waiting).result == 2
    assert len(changes(caplog)) == 1


async def test_a_url_of_one_node_is_refused_with_the_cure(cluster: Clustered):
    """A redis:// URL of a Cluster's node is refused with the cure."""
    url = f"redis://127.0.0.1:{other_than(cluster, cluster.primary)}"
    settings, words = Settings(redis_url=url, redis_key_prefix=PREFIX), r"redis\+cluster://"
    with pytest.raises(ServiceUnavailable, match=words) as caught:
        await check(settings)
    assert "\n" not in str(caught.value)
    async with Connection(parse_url(url)) as connection:
        with pytest.raises(WrongNodeError, match=words):
            await connection.call("GET", f"{PREFIX}key")


async def test_a_cluster_url_of_a_single_server_is_refused_with_the_cure(tmp_path: Path):
    """A redis+cluster:// URL of a single server is refused with the cure."""
    with Valkey(tmp_path) as valkey:
        url = f"redis+cluster://127.0.0.1:{valkey.port}"
        words = r"is no Cluster\. Begin REDIS_URL with redis://"
        with pytest.raises(ServiceUnavailable, match=words):
            await check(Settings(redis_url=url, redis_key_prefix=PREFIX))
        with pytest.raises(OSError, match=words):
            await asyncio.to_thread(ask, parse_url(url, PREFIX), ["PING"])


async def test_a_key_in_another_slot_is_an_error(cluster: Clustered):
    """A key without the prefix, in another slot, is an error, as waiting would not help."""
    words = r"A key lies in slot \d+ .* REDIS_KEY_PREFIX, which is  \{own\}:"
    keys = [f"another-key-{n}" for n in range(20)]  # most of them are on other nodes
    async with (
        Connection(address_of(cluster)) as connection,
        open_redis(settings_of(cluster)) as client,
    ):
        calls = (connection.call("GET", key) for key in keys)
        answers = dict(zip(keys, await asyncio.gather(*calls, return_exceptions=True), strict=True))
        refused = {key: answer for key, answer in answers.items() if answer is not None}
        assert refused
        for key, answer in refused.items():
            assert isinstance(answer, WrongNodeError)
            assert re.search(words, str(answer))
            with pytest.raises(RedisError, match=words):
                await client.get(key)


def server_with_tls() -> str:
    binary = shutil.which("redis-server")
    if binary is None or "libssl" not in subprocess.check_output(["ldd", binary], text=True):
        pytest.skip("needs a redis-server with TLS; the embedded Valkey has none")
    return binary


@pytest.mark.slow
async def test_all_connections_use_tls(tmp_path: Path, certificates: Path):
    """All connections use TLS, to the named nodes and to the queue's node."""
    binary = server_with_tls()
    names = (("ca-cert", "ca.pem"), ("cert", "server.pem"), ("key", "server.key"))
    files = [word for name, file in names for word in (f"--tls-{name}-file", certificates / file)]
    options = (*map(str, files), "--tls-auth-clients", "no", "--tls-replication", "yes")
    with Clustered(tmp_path, binary=binary, options=options, tls=Tls(verify="none")) as cluster:
        url = f"{cluster.url}?ssl_ca_certs={certificates}/ca.pem"
        trusting = f"{url}&ssl_check_hostname=false"
        address = parse_url(trusting, PREFIX)
        await check(Settings(redis_url=trusting, redis_key_prefix=PREFIX))
        async with Connection(address) as connection:
            assert await connection.call("SET", f"{PREFIX}key", "x") == b"OK"
        assert await asyncio.to_thread(ask, address, ["GET", f"{PREFIX}key"]) == ["x"]
        with pytest.raises(ServiceUnavailable, match="(?i)certificate"):
            await check(Settings(redis_url=url, redis_key_prefix=PREFIX))


@pytest.mark.slow
def test_the_commands_work(cluster: Clustered, tmp_path: Path):
    """The commands `worker-health`, `tasks` and `doctor` work with the default prefix."""
    shop = write_shop(tmp_path / "shop")
    environment = {
        "REDIS_URL": cluster.url,
        "SECRET_KEY": "Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
        "ENVIRONMENT": "test",
    }

    def typed(*arguments: str) -> Any:
        done = run_vibetuner(*arguments, folder=shop, seconds=60, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with vibetuner(
        *("run", "prod", "worker", "--port", str(free_port())),
        folder=shop,
        log=tmp_path / "log",
        environment=environment,
    ) as command:
        command.wait_for("worker ready: queue {corner-shop}", seconds=60)
        assert typed("worker-health", "--here").startswith("healthy: ")
        task_id = json.loads(typed("tasks", "enqueue", "add", "--args", "[1, 2]", "--json"))["id"]
        assert task_id in typed("tasks", "list", "--json")
        findings = json.loads(typed("doctor", "--json"))["findings"]
        said = [one["text"] for one in findings if "Cluster" in one["text"]]
        assert said == []
