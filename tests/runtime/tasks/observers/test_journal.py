"""The journal of the tasks that a worker runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.tasks.journaled import make_ended, record
from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.redis.keys import JournalKeys
from vibetuner.stored import read_record
from vibetuner.tasks.attempt import Attempt
from vibetuner.tasks.journal import Beat, Ended, FailedTry, Outcome, Started
from vibetuner.tasks.observers import Observer, Observers
from vibetuner.tasks.observers.journal import Limits
from vibetuner.tasks.payload import unpickle
from vibetuner.tasks.worker import TaskWorker


@pytest.fixture
def worker(stand_in, settings: Settings) -> TaskWorker:
    """Return a worker with tasks that succeed, fail, wait, or raise an error without a text."""
    stand_in()
    worker = TaskWorker(settings)

    @worker.task(name="double")
    async def double(number: int) -> int:
        return 2 * number

    @worker.task(name="fails")
    async def fails(tries: int = 1) -> None:
        from streaq import StreaqRetry

        try:
            raise ValueError("the till is empty")  # noqa: TRY301 - as a task does
        except ValueError as error:
            if fails.context.tries < tries:
                raise StreaqRetry(delay=0) from error
            raise

    @worker.task(name="unspeakable")
    async def unspeakable() -> None:
        raise Unspeakable

    @worker.task(name="waits")
    async def waits() -> None:
        await asyncio.sleep(3600)

    return worker


@pytest.fixture
def keys(settings: Settings) -> JournalKeys:
    """Return the names of the journal's keys."""
    return JournalKeys(settings.redis_key_prefix)


async def journal(worker: TaskWorker, stream: str, count: int) -> list[dict[str, Any]]:
    """Return the entries of a stream, once it has ``count`` of them."""

    async def enough() -> list[dict[str, Any]] | None:
        entries = await worker.redis.xrange(stream)
        return [dict(entry.field_values) for entry in entries] if len(entries) >= count else None

    return await eventually(enough)


async def test_each_end_is_written_down_with_its_moments(
    worker: TaskWorker, keys: JournalKeys, running
):
    """Each end is recorded in the stream of all tasks and in that of its name, failures in a third.

    The task's payload is kept, too.
    """
    async with running(worker):
        good = await worker.registry["double"].enqueue(21)
        bad = await worker.registry["fails"].enqueue()
        await good.result(timeout=30)
        await bad.result(timeout=30)
        entries = await journal(worker, keys.ended, 2)
        of_double = await journal(worker, keys.of("double"), 1)
        (failed,) = await journal(worker, keys.failed, 1)
        entry_id = await worker.redis.hget(keys.ids, good.id)
        (payload,) = await worker.redis.xrange(keys.payloads, entry_id, entry_id)
        stored = unpickle(worker.client.codec.open_kept(payload.field_values["p"], good.id))

    ended = {one.task_id: one for one in (read_record(Ended, e["d"]) for e in entries)}
    done = ended[good.id]
    assert (done.name, done.outcome, done.tries, done.worker) == ("double", "done", 1, worker.id)
    assert 0 < done.created <= done.queued <= done.started <= done.finished
    assert ended[bad.id].error == "ValueError: the till is empty"
    assert of_double == [{"s": "done"}]
    assert (failed["s"], failed["n"]) == ("failed", "fails")
    assert 'raise ValueError("the till is empty")' in failed["t"]
    assert (stored["f"], stored["a"]) == ("double", (21,))


async def test_a_running_task_is_listed_with_its_worker(
    worker: TaskWorker, keys: JournalKeys, running
):
    """A running task is listed until it ends, and its worker until it stops."""
    async with running(worker):
        task = await worker.registry["waits"].enqueue()
        found = await eventually(lambda: worker.redis.hgetall(keys.running(worker.id)))
        one = read_record(Started, found[task.id])
        assert (one.task_id, one.name, one.tries) == (task.id, "waits", 1)
        beat = read_record(Beat, str(await worker.redis.get(keys.worker(worker.id))))
        assert beat.tasks == ("double", "fails", "unspeakable", "waits")
        assert beat.concurrency == 16
        assert await worker.redis.zrange(keys.workers, 0, -1) == (worker.id,)
        assert await task.abort()
        (aborted,) = await journal(worker, keys.ended, 1)
        assert read_record(Ended, aborted["d"]).outcome is Outcome.ABORTED
        assert not await worker.redis.hgetall(keys.running(worker.id))

    async with worker:
        assert not await worker.redis.zrange(keys.workers, 0, -1)
        assert not await worker.redis.exists([keys.worker(worker.id), keys.running(worker.id)])


async def test_failed_tries_are_kept_with_their_reasons(
    worker: TaskWorker, keys: JournalKeys, running
):
    """Each failed try that was retried is kept with its number and its error."""
    async with running(worker):
        task = await worker.registry["fails"].enqueue(3)
        await task.result(timeout=30)
        await journal(worker, keys.ended, 1)
        tries = await worker.redis.lrange(keys.tries(task.id), 0, -1)

    assert [read_record(FailedTry, str(one)).tries for one in tries] == [1, 2]
    assert {read_record(FailedTry, str(one)).error for one in tries} == {
        "ValueError: the till is empty"
    }


async def test_the_counts_of_a_minute_add_up(worker: TaskWorker, keys: JournalKeys, running):
    """The statistics count each end, and have a histogram of waits and one of runs."""
    async with running(worker):
        tasks = [await worker.registry["double"].enqueue(n) for n in range(5)]
        for task in tasks:
            await task.result(timeout=30)
        entries = await journal(worker, keys.ended, 5)
        counts: dict[str, int] = {}

        async def all_are_counted() -> bool:
            for at in {read_record(Ended, e["d"]).finished for e in entries}:
                found = await worker.redis.hgetall(keys.quarter(at))
                counts.update({k: int(v) for k, v in found.items()})
            return counts.get("done") == 5

        await eventually(all_are_counted)

    assert counts["done"] == 5
    assert sum(n for name, n in counts.items() if name.startswith("w")) == 5
    assert sum(n for name, n in counts.items() if name.startswith("r") and name[1].isdigit()) == 5


async def test_an_outage_loses_no_entry(
    worker: TaskWorker, settings: Settings, tmp_path: Path, running
):
    """A journal entry that Redis could not take is recorded with its end after the outage."""
    server = Valkey(tmp_path)
    server.start()
    keys = JournalKeys(settings.redis_key_prefix)
    go = asyncio.Event()

    @worker.task(name="held")
    async def held() -> None:
        await go.wait()

    with using_settings(settings.model_copy(update={"redis_url": server.url})):
        async with running(worker):
            first = await worker.registry["double"].enqueue(1)
            await first.result(timeout=30)
            second = await held.enqueue()
            await eventually(worker.running)
            await asyncio.to_thread(server.kill)
            go.set()
            await eventually(lambda: not worker.running())
            await asyncio.to_thread(server.start)
            entries = await journal(worker, keys.ended, 2)
    server.kill()

    assert [read_record(Ended, entry["d"]).task_id for entry in entries] == [first.id, second.id]


async def test_a_journal_that_cannot_be_written_blocks_no_end(
    worker: TaskWorker, keys: JournalKeys, running, caplog: pytest.LogCaptureFixture
):
    """A task ends though its error has no text, Redis refuses the journal, or an observer fails."""
    async with worker:
        await worker.redis.set(keys.ended, "no stream")
    async with running(worker):
        bad = await worker.registry["unspeakable"].enqueue()
        assert isinstance((await bad.result(timeout=30)).exception, Unspeakable)
        await worker.redis.delete([keys.ended])
        good = await worker.registry["unspeakable"].enqueue()
        await good.result(timeout=30)
        (entry,) = await journal(worker, keys.ended, 1)
        assert "Unspeakable" in read_record(Ended, entry["d"]).error

    attempt = Attempt("t1")
    attempt.fn_name = "double"
    Observers([Broken()]).ended(attempt)
    assert "Broken failed to observe double" in caplog.messages


async def test_the_journal_does_not_grow_without_bound(
    worker: TaskWorker, keys: JournalKeys, settings: Settings
):
    """The journal drops the oldest tasks with all entries, and each of its keys expires."""
    limits = Limits(ended=2000, failed=100, payloads=100)
    async with worker:
        for start in range(0, 6000, 500):
            ended_now = [
                make_ended(f"t{n}", "double", failed=n % 5 == 0) for n in range(start, start + 500)
            ]
            await record(worker, keys, ended_now, limits)
        ended = await worker.redis.xlen(keys.ended)
        assert 2000 <= ended <= 3000
        assert await worker.redis.hlen(keys.ids) == ended
        assert await worker.redis.hget(keys.ids, "t0") is None
        assert await worker.redis.hget(keys.ids, "t5999") is not None
        assert await worker.redis.xlen(keys.of("double")) <= ended + 200
        assert await worker.redis.xlen(keys.failed) <= 300
        assert await worker.redis.xlen(keys.payloads) <= 300
        mine = {
            str(key)
            async for key in worker.redis.scan_iter(f"{settings.redis_key_prefix}*", count=10_000)
        }
        letters = {key for key in mine if "dead_letters" in key}
        for key in mine - letters - {keys.names}:
            assert await worker.redis.ttl(key) > 0, key


class Broken(Observer):
    """An observer that raises an error at each end."""

    def ended(self, attempt: Attempt) -> None:
        raise LookupError("not here")


class Unspeakable(Exception):
    """An error whose text can't be read."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")
