"""Durable enqueues, which return once the server can't lose the task, or raise NotDurable."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.tasks.letters.conftest import keep, make_letter, payload_of
from tests.sentinels import Replicated
from tests.valkey import LASTING, Valkey, opened, until_it_works
from tests.waiting import eventually, wait_until
from vibetuner.cli.checks.redis import judge_durability
from vibetuner.config import Settings, get_settings
from vibetuner.embedded.folder import valkey_binary
from vibetuner.errors import NotDurable, TaskError, TaskExists
from vibetuner.redis.blocking import ask
from vibetuner.redis.client import open_redis
from vibetuner.redis.url import parse_url
from vibetuner.tasks import dead_letters
from vibetuner.tasks.dead_letters import matching, settle
from vibetuner.tasks.letters.letter import Filters
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.unique import Unique
from vibetuner.tasks.worker import TaskWorker, enqueue_sync, using_worker

SHORT = timedelta(seconds=0.3)
SYNCED = ("--appendonly", "yes", "--appendfsync", "everysec")


@pytest.fixture(params=["valkey-server", "redis-server"])
def program(request: pytest.FixtureRequest) -> str:
    """Return the embedded Valkey, and the system's Redis if it is installed."""
    found = valkey_binary() if request.param == "valkey-server" else shutil.which(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    return str(found)


@contextmanager
def serving(
    folder: Path, *options: str, program: str | None = None, replicas: int = 0
) -> Iterator[tuple[Valkey, ...]]:
    """Yield a server, which without ``options`` keeps nothing on disk, and its replicas."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        servers: list[Valkey] = []
        for number in range(1 + replicas):
            own = folder / str(number)
            own.mkdir()
            more = ("--replicaof", f"127.0.0.1 {servers[0].port}") if servers else ()
            more += ("--repl-diskless-sync-delay", "0")
            server = Valkey(own, lasting=False, options=(*options, *more), program=program)
            servers.append(stack.enter_context(server))
        address = parse_url(servers[0].url)
        wait_until(lambda: str(ask(address, ["INFO"])).count("state=online") == replicas)
        yield tuple(servers)


async def calls_of(server: Valkey, command: str) -> int:
    """Return how often the server has run a command."""
    (shown,) = await asyncio.to_thread(ask, parse_url(server.url), ["INFO", "commandstats"])
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", str(shown))
    return int(found[1]) if found else 0


async def waits(server: Valkey) -> bool:
    """Return whether a connection waits for replicas."""
    (shown,) = await asyncio.to_thread(ask, parse_url(server.url), ["CLIENT", "LIST"])
    return re.search(r"flags=\S*b\S* .*cmd=wait", str(shown)) is not None


@pytest.fixture(autouse=True)
def project(stand_in: Callable[..., Path]) -> None:
    """Make a project the current one."""
    stand_in()


async def test_a_call_waits_for_every_replica_and_delays_no_other(tmp_path: Path, program: str):
    """A durable call waits until a frozen replica resumes, and other calls go on meanwhile."""
    with serving(tmp_path, program=program, replicas=2) as (primary, _, second):
        async with opened(primary) as (worker, number):
            await number.enqueue(1).start(durable=True)
            with second.frozen():
                waiting = asyncio.create_task(_awaited(number.enqueue(2).start(durable=True)))
                await eventually(lambda: waits(primary))
                await number.enqueue(3)
                assert await worker.queue_size() == 3
                assert not waiting.done()
            await waiting
            assert ask(parse_url(second.url), ["XLEN", worker.stream_key + "normal"]) == [3]


async def test_a_frozen_replica_is_reported_in_time(tmp_path: Path, program: str):
    """NotDurable names the task's id and state, and the call can be repeated under its key."""
    with serving(tmp_path, program=program, replicas=1) as (primary, replica):
        async with opened(primary) as (worker, number):
            first = number.enqueue(1).once("one").start(durable=SHORT)
            with replica.frozen():
                with pytest.raises(
                    NotDurable, match="no confirmation by 1 replica within 0.3 s"
                ) as caught:
                    await first
                assert str(caught.value).startswith(f"number {first.id}: queued, but not confirmed")
                assert caught.value.queued is True
                # The task is there, so nothing is written, but the call still waits.
                with pytest.raises(NotDurable, match="no confirmation by 1 replica within 0.3 s"):
                    await number.enqueue(1).once("one").start(durable=SHORT)
            again = await number.enqueue(1).once("one").start(durable=True)
            assert again.id == first.id
            assert await worker.queue_size() == 1


async def test_memory_alone_is_refused_before_anything_is_written(tmp_path: Path, program: str):
    """A durable call to a server without disk and replicas raises NotDurable with the cure.

    The doctor reports the same if ENQUEUE_DURABLE is set.
    """
    with serving(tmp_path, program=program) as (server,):
        async with opened(server, enqueue_durable=True) as (worker, number):
            with pytest.raises(NotDurable, match=r"memory alone\. Set appendonly yes") as caught:
                await number.enqueue(1)
            assert re.match(r"number \w+: not enqueued, as of Redis at 127", str(caught.value))
            assert caught.value.queued is False
            await number.enqueue(2).start(durable=False)
            assert await worker.queue_size() == 1
        (finding,) = await judged(server)
    assert finding.level == "error"
    assert "every enqueue is refused: it keeps tasks in memory alone" in finding.text
    assert finding.cure == "set appendonly yes there, or start a replica"


async def test_a_retry_of_a_dead_letter_is_durable(tmp_path: Path):
    """With ENQUEUE_DURABLE, a retry on a server that may lose it raises NotDurable.

    The letter stays open, and a discard needs no durability. Many retries share their waits.
    """
    with serving(tmp_path / "memory") as (server,):
        async with opened(server, enqueue_durable=True) as (worker, _):
            with using_worker(worker):
                await bury(worker, ["t1", "t2"])
                with pytest.raises(NotDurable, match="not enqueued, .*keeps tasks in memory alone"):
                    await dead_letters.retry("t1")
                await dead_letters.discard("t2")
                assert (await dead_letters.get("t1")).is_open
                assert await worker.queue_size() == 0
    with serving(tmp_path / "disk", *LASTING) as (server,):
        async with opened(server, enqueue_durable=True) as (worker, _):
            with using_worker(worker):
                await bury(worker, [f"t{number}" for number in range(60)])
                found = [one async for one in settle("retry", matching(Filters()), by=None)]
                assert {one.refusal for one in found} == {""}
                assert len({one.new_id for one in found}) == await worker.queue_size() == 60
                assert 1 <= await calls_of(server, "waitaof") <= 12


async def bury(worker: TaskWorker, task_ids: list[str]) -> None:
    """Store dead letters of these tasks."""
    for task_id in task_ids:
        payload = await payload_of(worker, "acme", task_id=task_id)
        letter = make_letter(task_id, args=["acme"], payload=payload)
        await keep(worker.redis, get_settings().redis_key_prefix, letter)


async def judged(server: Valkey) -> list[Any]:
    """Return the findings of the doctor about ENQUEUE_DURABLE."""
    settings = server.settings.model_copy(update={"enqueue_durable": True})
    address = parse_url(server.url)
    async with open_redis(settings) as client:
        info = dict(await client.info())
    assert judge_durability(info, server.settings, address) == []
    live = settings.model_copy(update={"environment": "production"})
    return judge_durability(info, live, address)


async def test_a_call_waits_for_the_disk(tmp_path: Path):
    """A durable call uses WAITAOF on a server with an append-only file, as the doctor reports."""
    with serving(tmp_path, *SYNCED) as (server,):
        async with opened(server) as (_, number):
            await number.enqueue(1).start(durable=True)
            assert await calls_of(server, "waitaof") == 1
        (finding,) = await judged(server)
    assert (finding.level, finding.text) == ("ok", "each enqueue waits for the disk")


async def test_an_unwritten_disk_is_reported(tmp_path: Path):
    """A write that is not synced in time raises NotDurable, as with `appendfsync no`."""
    with serving(tmp_path, "--appendonly", "yes", "--appendfsync", "no") as (server,):
        async with opened(server) as (_, number):
            with pytest.raises(NotDurable, match="queued, but .*: no confirmation by the disk"):
                await number.enqueue(1).start(durable=SHORT)


async def test_a_server_that_cannot_confirm_its_disk_needs_a_replica(tmp_path: Path):
    """Redis before 7.2 has no WAITAOF, so a durable call without a replica raises NotDurable."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with serving(tmp_path, *LASTING, program=program) as (server,):
        (version,) = ask(parse_url(server.url), ["INFO", "server"])
        if re.search(r"redis_version:(7\.[01]|[0-6])\.", str(version)) is None:
            pytest.skip("this Redis knows WAITAOF")
        async with opened(server) as (_, number):
            with pytest.raises(NotDurable, match=r"can't say when a write is on disk\. Use Redis"):
                await number.enqueue(1).start(durable=True)


async def test_calls_at_the_same_time_share_a_wait(tmp_path: Path):
    """Three hundred durable calls need at most four waits."""
    with serving(tmp_path, *LASTING, replicas=1) as (primary, replica):
        async with opened(primary, enqueue_durable=True) as (worker, number):
            await asyncio.gather(*(number.enqueue(value) for value in range(300)))
            assert await worker.queue_size() == 300
            assert await calls_of(primary, "wait") <= 4
            assert await calls_of(primary, "waitaof") <= 4
            assert ask(parse_url(replica.url), ["XLEN", worker.stream_key + "normal"]) == [300]


async def test_every_way_to_enqueue_is_durable(tmp_path: Path):
    """Each way to enqueue raises NotDurable while a replica is frozen."""
    with serving(tmp_path, replicas=1) as (primary, replica):
        async with opened(primary, enqueue_durable=True) as (worker, number):
            line = worker.task(name="line")(asyncio.sleep)
            now, later = number.enqueue(1), number.enqueue(1).start(delay=60, durable=SHORT)
            repeated = number.enqueue(1).start(schedule="0 0 1 1 *", durable=SHORT)
            many = [number.enqueue(value).start(durable=SHORT) for value in range(3)]
            batch = number.enqueue(1).start(after=number.enqueue(1), durable=SHORT)
            keyed = number.enqueue(1).start(after=number.enqueue(1), durable=SHORT).once("key")
            alone = line.enqueue(0).start(durable=SHORT)
            with replica.frozen():
                for call in (later, repeated, alone, batch, keyed):
                    with pytest.raises(NotDurable, match="no confirmation by 1 replica"):
                        await call
                with pytest.raises(NotDurable, match=rf"number {many[0].id} and 2 more: queued"):
                    await worker.enqueue_many(many)
                with pytest.raises(NotDurable, match="no confirmation by 1 replica"):
                    await asyncio.to_thread(enqueue_sync, number.enqueue(1).start(durable=SHORT))
                waiting = asyncio.create_task(_awaited(now))
                await eventually(lambda: waits(primary))
            await waiting
            with pytest.raises(TaskExists):
                await worker.enqueue_many([now, number.enqueue(2)])
            assert await worker.queue_size() == 11


async def test_a_connection_that_is_lost_confirms_nothing(tmp_path: Path):
    """A call whose connection is lost raises NotDurable, as its task may not be queued."""
    with serving(tmp_path, replicas=1) as (primary, replica):
        async with opened(primary) as (_, number):
            with replica.frozen():
                waiting = asyncio.create_task(_awaited(number.enqueue(1).start(durable=True)))
                await eventually(lambda: waits(primary))
                primary.kill()
                with pytest.raises(NotDurable, match="and perhaps not queued") as caught:
                    await waiting
                assert caught.value.queued is None
            with pytest.raises(NotDurable, match="not enqueued, .* can't be reached") as caught:
                await number.enqueue(2).start(durable=SHORT)
            assert caught.value.queued is False


async def test_another_server_at_the_same_address_confirms_nothing(tmp_path: Path):
    """A call raises NotDurable if an empty server answers the next connection instead."""
    with serving(tmp_path, replicas=1) as (primary, replica):
        async with opened(primary) as (worker, number):
            with replica.frozen():
                waiting = asyncio.create_task(_awaited(number.enqueue(1).start(durable=True)))
                await eventually(lambda: waits(primary))
                primary.kill()
                await asyncio.to_thread(primary.start)
                with pytest.raises(NotDurable, match="and perhaps not queued") as caught:
                    await waiting
            assert caught.value.queued is None
            assert await worker.queue_size() == 0


async def test_a_frozen_server_is_reported_in_time(tmp_path: Path):
    """Calls to a frozen server raise NotDurable in time, and are not enqueued."""
    with serving(tmp_path, *LASTING) as (server,):
        async with opened(server) as (_, number):
            await number.enqueue(0).start(durable=True)
            with server.frozen():
                calls = [number.enqueue(value).start(durable=SHORT) for value in range(3)]
                errors = await asyncio.gather(*map(_awaited, calls), return_exceptions=True)
    assert [str(error).partition(", as of")[0] for error in errors] == [
        f"number {call.id}: not enqueued" for call in calls
    ]
    assert "no answer within 0.3 s" in str(errors[0])


@pytest.mark.parametrize("call", ["first", "last"])
async def test_a_chain_is_enqueued_durably(tmp_path: Path, call: str):
    """A chain is enqueued durably or not at all, whichever of its calls asks for it."""
    with serving(tmp_path, *LASTING) as (server,):
        async with opened(server) as (worker, number):
            if call == "first":
                chain = number.enqueue(1).start(durable=True).then(number)
            else:
                chain = number.enqueue(1).then(number).start(durable=True)
            await worker.redis.config_set({"appendonly": "no"})
            with pytest.raises(NotDurable, match="not enqueued"):
                await chain
            assert await worker.queue_size() == 0
            await worker.redis.config_set({"appendonly": "yes"})
            assert (await chain).id == chain.id
            assert await worker.queue_size() == 1


@pytest.mark.parametrize("value", [0, "yes", timedelta(0), 5])
async def test_an_invalid_durability_is_refused(value: Any):
    """start() raises TaskError for a `durable=` that is neither a bool nor a timedelta above 0."""
    task: Any = TaskWorker(Settings(redis_key_prefix="own")).task(name="number")(asyncio.sleep)
    with pytest.raises(TaskError, match=re.escape(f"a timedelta above 0, not {value!r}")):
        task.enqueue(1).start(durable=value)


async def test_a_durable_unique_task_may_clash(tmp_path: Path):
    """A later durable call of a unique task gets the id of the one that waits."""
    with serving(tmp_path, *LASTING) as (server,):
        async with opened(server, enqueue_durable=True) as (worker, _):
            with using_worker(worker):

                @robust_task(unique=Unique(clash="skip"), name="alone")
                async def alone() -> None: ...

            first, second = await alone.enqueue(), await alone.enqueue()
            assert first.id == second.id
            assert await worker.queue_size() == 1


@pytest.mark.slow
async def test_a_failover_loses_only_unconfirmed_tasks(tmp_path: Path):
    """A failover loses tasks that were not durable or not confirmed, and no others.

    The last primary, without a replica, confirms nothing.
    """
    with Replicated(tmp_path) as servers:
        async with opened(servers) as (worker, number):
            old = servers.primary
            replicas = [port for port in servers.servers if port != old]
            kept = [await number.enqueue(value).start(durable=True) for value in range(20)]
            servers.hold_back()
            plain, unsure = await number.enqueue(1), number.enqueue(2).start(durable=SHORT)
            with pytest.raises(NotDurable, match="queued, but .*by 2 replicas within"):
                await unsure
            servers.kill(old)
            for port in replicas:
                servers.thaw(port)
            await asyncio.to_thread(servers.wait_for_promotion, old)

            found = await until_it_works(lambda: infos(worker, [*kept, plain, unsure]))
            assert [call.id for call, info in found if info is None] == [plain.id, unsure.id]
            # The remaining replica follows the new primary shortly.
            await until_it_works(lambda: _awaited(number.enqueue(3).start(durable=SHORT)))
            for port in replicas:
                if port != servers.primary:
                    servers.kill(port)
            with pytest.raises(NotDurable, match="it has no replica, so that the next failover"):
                await until_it_is_alone(number)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ordered", "frozen", "frozen with a replica"])
async def test_a_primary_that_is_being_replaced_confirms_nothing(tmp_path: Path, how: str):
    """A call that the old primary confirms during a failover is never lost.

    A replica that still follows the old primary loses the task when it follows the new one. If that
    replica was frozen, too, Sentinels report only the one that they have promoted, so the numbers
    of replicas agree.
    """
    with Replicated(tmp_path) as servers:
        async with opened(servers) as (worker, number):
            old, kept = servers.primary, []
            await number.enqueue(0).start(durable=True)

            async def enqueue() -> None:
                while await asyncio.to_thread(lambda: servers.primary) == old:
                    call = number.enqueue(1).start(durable=SHORT)
                    try:
                        kept.append(await call)
                    except NotDurable:
                        continue

            enqueuing = [asyncio.create_task(enqueue()) for _ in range(8)]
            await eventually(lambda: len(kept) > 5)
            late, other = servers.replicas
            if how == "frozen with a replica":
                for port in servers.sentinels:
                    servers.on(port, "SENTINEL", "DEBUG", "publish-period", "3000")
                servers.freeze(late)
                await eventually(lambda: servers.is_down(late))
            if how == "ordered":
                await asyncio.to_thread(servers.replace, old)
            else:
                servers.freeze(old)
            if how == "frozen with a replica":
                # Few Sentinels know this yet.
                await eventually(lambda: "role:master" in str(servers.on(other, "INFO")))
                servers.thaw(late)
            else:
                await asyncio.to_thread(servers.wait_for_promotion, old)
            servers.thaw(old)
            await asyncio.gather(*enqueuing)
            await eventually(servers.is_whole)

            found = await until_it_works(lambda: infos(worker, kept))
            assert [call.id for call, info in found if info is None] == []


async def infos(worker: TaskWorker, calls: list[Any]) -> list[tuple[Any, Any]]:
    """Return each call with the state of its task."""
    return [(call, await worker.info_by_id(call.id)) for call in calls]


async def until_it_is_alone(number: Any) -> None:
    """Enqueue until the primary has noticed that its replica has gone."""
    async with asyncio.timeout(60):
        while True:
            try:
                await number.enqueue(4).start(durable=SHORT)
            except NotDurable as error:
                if error.queued is False:
                    raise


async def _awaited(call: Any) -> Any:
    """Await a call, which enqueues it."""
    return await call
