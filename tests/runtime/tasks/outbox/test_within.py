"""Calls that are enqueued if, and only if, their transaction is committed."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from streaq import TaskStatus
from streaq.types import StreaqCancelled

from tests.runtime.conftest import Running
from tests.runtime.tasks.outbox.conftest import TUNE, Database
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.errors import NotConfigured, TaskError, TaskExists, TaskNotFound
from vibetuner.loader import load_project
from vibetuner.redis.keys import JournalKeys
from vibetuner.resources.slots import sql_engine
from vibetuner.resources.sql import open_sql, table_of
from vibetuner.tasks.inspect.actions import abort
from vibetuner.tasks.inspect.queue import Queue, whole_id
from vibetuner.tasks.outbox.row import Row, Store
from vibetuner.tasks.outbox.sql import Outbox, SqlOutbox
from vibetuner.tasks.worker import TaskWorker

ROUNDS = 5


async def emptied(store: Store) -> None:
    """Wait until no row is left in the outbox."""

    async def is_empty() -> bool:
        return not (await store.waiting())[0]

    await eventually(is_empty, what=lambda: "an empty outbox")


async def run_once(worker: TaskWorker) -> None:
    """Run the worker until the queue is empty."""
    worker.burst, worker.handle_signals = True, False
    await worker.run_async(lifespan=nullcontext())


async def test_a_committed_call_is_enqueued_at_once(
    database: Database, worker: TaskWorker, receipt: Any
):
    """The process that commits enqueues the call, without a relay.

    The call has its id before that.
    """
    async with worker:
        async with database.session() as session:
            await database.insert(session, "T1")
            task = await receipt.enqueue("T1").within(session)
            assert await worker.queue_size() == 0
        await emptied(database.store)
        assert (await worker.info_by_id(task.id)).args == ("T1",)
        assert await worker.queue_size() == 1
    assert await database.orders() == {"T1"}


async def test_a_row_is_found_by_the_beginning_of_its_id_and_can_be_aborted(
    database: Database, worker: TaskWorker, receipt: Any, settings: Settings, running: Running
):
    """An abort of a task in the outbox is kept for the worker that takes the task."""
    queue = Queue(worker, JournalKeys(settings.redis_key_prefix))
    task = receipt.enqueue("T1").start(priority=worker.priorities[-1])
    async with worker:
        _, payload, *options = worker.client.values([task], 0)
        row = Row(task.id, "receipt", payload, json.dumps(options), datetime.now(UTC))
        async with database.session() as session:
            await database.store.add(row, session)
        assert await whole_id(queue, task.id[:8]) == task.id
        assert await abort(queue, task.id) is False
        await worker.courier.hand_on_all()
    async with running(worker):
        result = await task.result(timeout=30)
    assert isinstance(result.exception, StreaqCancelled)


async def test_a_process_that_has_left_its_folder_knows_its_outbox(
    database: Database, worker: TaskWorker, receipt: Any, monkeypatch: pytest.MonkeyPatch
):
    """A process writes to its outbox after it has changed the current folder, as a task may."""
    load_project()
    monkeypatch.chdir("/")
    async with worker:
        async with database.session() as session:
            await receipt.enqueue("T1").within(session)
        await emptied(database.store)
        assert await worker.queue_size() == 1


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_no_commit_is_forgotten_by_the_process_that_made_it(
    database: Database, worker: TaskWorker, receipt: Any
):
    """Each committed call is handed on, however commits and hand-ons of others overlap.

    No relay runs in this test.
    """

    async def write(name: str) -> None:
        for number in range(20):
            async with database.session() as session:
                await receipt.enqueue(f"{name}{number}").within(session)

    async with worker:
        await asyncio.gather(*map(write, "ABC"))
        await emptied(database.store)
        assert await worker.queue_size() == 60


async def test_a_rolled_back_call_is_not_enqueued(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call of a transaction that is rolled back is not enqueued, and leaves no row."""
    async with worker:
        with pytest.raises(ZeroDivisionError):
            async with database.session() as session:
                await database.insert(session, "T1")
                await receipt.enqueue("T1").within(session)
                raise ZeroDivisionError
        async with database.session() as session:
            await receipt.enqueue("T2").within(session)
        await emptied(database.store)
        assert await worker.queue_size() == 1
    assert await database.orders() == set()


async def test_redis_is_not_needed(database: Database, worker: TaskWorker, receipt: Any):
    """A call is written without a connection to Redis, and enqueued when there is one."""
    async with database.session() as session:
        await database.insert(session, "T1")
        task = await receipt.enqueue("T1").within(session)
    assert (await database.store.waiting())[0] == 1
    async with worker:
        assert await worker.courier.hand_on(database.store) == 1
        assert (await worker.info_by_id(task.id)).args == ("T1",)


async def test_a_worker_hands_on_rows_left_by_a_crash(
    database: Database, worker: TaskWorker, receipt: Any, running: Any
):
    """A worker hands on a row whose own process has ended."""
    async with database.session() as session:
        task = await receipt.enqueue("T1").within(session)
    async with running(worker):
        assert (await worker.result_by_id(task.id, 10)).result == "T1"
        await emptied(database.store)


async def test_a_row_that_is_handed_on_twice_is_enqueued_once(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A second hand-on enqueues nothing, even if the queue has nothing left of the task."""
    async with database.session() as session:
        await receipt.enqueue("T1").within(session)
    rows = await database.store.read(None, 10)
    async with worker:
        assert await worker.courier.hand_on(database.store) == 1
        await run_once(worker)
        for row in rows:
            async with database.session() as session:
                await database.store.add(row, session)
        assert await worker.courier.hand_on(database.store) == 1
        assert await worker.queue_size() == 0
        assert (await database.store.waiting())[0] == 0


async def test_a_row_keeps_delay_and_key(database: Database, worker: TaskWorker, receipt: Any):
    """The options of `start()` and `once()` apply to a call in the outbox, too."""
    async with worker:
        async with database.session() as session:
            first = await receipt.enqueue("T1").start(delay=60).within(session).once("evt")
            again = await receipt.enqueue("T1").within(session).once("evt")
        await emptied(database.store)
        async with database.session() as session:
            later = await receipt.enqueue("T1").once("evt").within(session)
        plain = await receipt.enqueue("T1").once("evt")
        assert {one.id for one in (first, again, later, plain)} == {first.id}
        await emptied(database.store)
        assert await worker.queue_size() == 1
        assert await worker.queue_size(include_scheduled=False) == 0
        async with database.session() as session:
            with pytest.raises(TaskError, match=f"'evt' belongs to receipt {first.id}"):
                await receipt.enqueue("T2").within(session).once("evt")


async def test_a_call_may_wait_for_one_of_its_own_transaction(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call waits for another of its transaction, in whatever order their rows are handed on."""
    async with worker:
        async with database.session() as session:
            first, second = receipt.enqueue("T1"), receipt.enqueue("T2")
            calls = [second.start(after=first.id).within(session), first.within(session)]
            await worker.enqueue_many(calls)
        await emptied(database.store)
        assert (await calls[0].info()).dependencies == {first.id}
        assert await worker.queue_size() == 1


async def test_a_call_may_follow_one_that_is_still_in_the_outbox(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call that is enqueued after one of the outbox has that one handed on first."""
    async with worker:
        async with database.session() as session:
            first = await receipt.enqueue("T1").within(session)
            with pytest.raises(TaskNotFound, match=first.id):  # the transaction may still fail
                await receipt.enqueue("T2").start(after=first.id)
        second = await receipt.enqueue("T2").start(after=first.id)
        assert (await second.info()).dependencies == {first.id}


async def test_a_key_of_the_outbox_goes_to_no_task_that_has_the_id_already(
    database: Database, worker: TaskWorker, receipt: Any, caplog: pytest.LogCaptureFixture
):
    """A row whose id was taken before the hand-on is dropped with a warning; its key stays free."""
    for key in (None, "evt"):
        async with database.session() as session:
            call = receipt.enqueue("T2").within(session)
            call = call.once(key) if key else call
            call.id = f"acme-{key}"
            await call
    async with worker:
        for key in (None, "evt"):
            first = receipt.enqueue("T1").start(delay=3600)
            first.id = f"acme-{key}"
            await first
        assert await worker.courier.hand_on(database.store) == 2
        for key in (None, "evt"):
            assert f"receipt acme-{key} was not enqueued: its id is taken" in caplog.messages
        assert (await database.store.waiting())[0] == 0
        assert not await worker.redis.exists([worker.client.keys.once("evt")])
        assert await worker.queue_size() == 2


@pytest.mark.parametrize("key", [None, "evt"])
async def test_an_own_id_that_is_taken_is_refused_in_the_transaction(
    database: Database, worker: TaskWorker, receipt: Any, key: str | None
):
    """An id that waits or has a result raises TaskExists; the transaction may go on without it."""

    def own(session: Any) -> Any:
        call = receipt.enqueue("T2").within(session)
        call = call.once(key) if key else call
        call.id = "acme"
        return call

    async with worker:
        first = receipt.enqueue("T1")
        first.id = "acme"
        await first
        for reason in ("waits or runs already", "has ended, and its result is kept"):
            async with database.session() as session:
                with pytest.raises(TaskExists, match=f"^receipt acme {reason}"):
                    await own(session)
                await database.insert(session, reason)
            assert (await database.store.waiting())[0] == 0
            await run_once(worker)
        assert len(await database.orders()) == 2
        await worker.redis.delete([worker.client.keys.result("acme")])
        async with database.session() as session:
            await own(session)
        await emptied(database.store)
        assert await worker.queue_size() == 1


async def test_an_own_id_may_be_used_again_once_nothing_is_kept_of_it(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A second row of an id is enqueued; the note about the first one does not count for it.

    A call that follows the second one waits for it, too.
    """
    async with worker:
        for number in ("T1", "T2"):
            part = receipt.enqueue(number)
            part.id = "acme"
            async with database.session() as session:
                last = await receipt.enqueue("end").start(after=part).within(session)
            await emptied(database.store)
            assert (await worker.info_by_id("acme")).args == (number,)
            await run_once(worker)
            assert (await last.result(timeout=30)).result == "end"
            await worker.redis.delete([worker.client.keys.result("acme")])


async def test_a_call_of_the_outbox_fails_if_nobody_knows_the_one_before(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call of the outbox, which can't be refused any more, fails instead of waiting for good."""
    async with worker:
        async with database.session() as session:
            second = await receipt.enqueue("T2").start(after="unknown").within(session)
        await emptied(database.store)
        keys = worker.client.keys
        assert await worker.redis.smembers(keys.failing) == {second.id}
        assert await worker.redis.get(keys.blamed(second.id)) == "unknown, which is gone"
        assert await worker.queue_size() == 1


async def test_a_call_of_the_outbox_fails_if_one_of_those_before_is_unknown(
    database: Database, worker: TaskWorker, receipt: Any
):
    """An id that nobody knows is not waited for because the outbox holds another task before."""
    async with worker:
        part = receipt.enqueue("T1")
        async with database.session() as session:
            last = await receipt.enqueue("T2").start(after=[part, "unknown"]).within(session)
        await emptied(database.store)
        assert await worker.redis.smembers(worker.client.keys.failing) == {last.id}
        assert await worker.queue_size() == 2


async def test_a_call_of_the_outbox_follows_one_that_keeps_no_result(
    database: Database, worker: TaskWorker, running: Running
):
    """A task follows a part that keeps no result, which is handed on with it, and not before."""

    @worker.task(name="brief", ttl=0)
    async def brief() -> None: ...

    @worker.task(name="last")
    async def last() -> str:
        return "after all"

    async with running(worker):
        for _ in range(ROUNDS):
            async with database.session() as session:
                call = last.enqueue().start(after=[brief.enqueue() for _ in range(3)])
                await call.within(session)
            assert (await call.result(timeout=30)).result == "after all"


async def test_a_row_that_was_handed_on_and_ended_is_waited_for_no_more(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A task fails if the one before it was handed on, and has ended without a result."""
    async with worker:
        async with database.session() as session:
            first = await receipt.enqueue("T1").within(session)
        await emptied(database.store)
        keys, queue = worker.client.keys, worker.client.functions
        await worker.redis.delete([keys.data(first.id)])
        values = worker.client.values([receipt.enqueue("T2").start(after=first.id)], 0)
        [noted] = await worker.redis.mget([keys.handed(first.id)])
        head = ["now", 1000, json.dumps({first.id: noted})]
        answer = await queue.call("hand_on", (keys.queue,), [*head, "", "", 0, "", *values])
        assert answer == [b"?" + first.id.encode()]
        answer = await queue.call("hand_on", (keys.queue,), [*head, first.id, "", 0, "", *values])
        assert answer == [values[0].encode(), b""]
        assert await worker.redis.smembers(keys.failing) == {values[0]}


async def test_a_call_of_the_outbox_fails_with_a_task_that_has_failed_before(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call with `after=` a task that was aborted before the hand-on is marked to fail."""
    async with worker:
        first = await receipt.enqueue("T1").start(delay=3600)
        assert await first.abort(timeout=0)
        async with database.session() as session:
            second = await receipt.enqueue("T2").start(after=first.id).within(session)
        await emptied(database.store)
        marks = await worker.redis.smembers(worker.client.keys.failing)
        assert marks == {second.id}
        assert await worker.queue_size() == 1


async def test_a_call_takes_those_that_it_waits_for_into_the_transaction(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call is written with the calls that it waits for, or with none of them.

    The call itself is handed on first, so that it waits before they can end.
    """

    def batch() -> Any:
        parts = [receipt.enqueue(number) for number in ("T1", "T2")]
        return receipt.enqueue("end").start(after=parts, regardless=True)

    with pytest.raises(ZeroDivisionError):
        async with database.session() as session:
            await batch().within(session)
            raise ZeroDivisionError
    assert await database.store.read(None, 9) == []

    async with database.session() as session:
        end = await batch().within(session).once("night")
    async with database.session() as session:
        assert (await batch().once("night").within(session)).id == end.id
    rows = await database.store.read(None, 9)
    parts = {part.id for part in end.parts}
    assert rows[0].task_id == end.id
    assert {row.task_id for row in rows[1:]} == parts
    async with worker:
        assert await worker.courier.hand_on(database.store) == 3
        assert (await end.info()).dependencies == parts
        assert await worker.queue_size() == 2


async def test_one_of_two_calls_with_a_key_is_enqueued_after_an_outage(
    database: Database, worker: TaskWorker, receipt: Any
):
    """Two rows with one key enqueue one task, even if the first has gone when the second comes."""
    rows = []
    for _ in range(2):
        async with database.session() as session:
            await receipt.enqueue("T1").within(session).once("evt", keep=timedelta(days=1))
        rows += await database.store.read(None, 1)
        await database.store.delete([rows[-1].task_id])
    async with worker:
        for row in rows:
            async with database.session() as session:
                await database.store.add(row, session)
            assert await worker.courier.hand_on(database.store) == 1
        assert rows[0].task_id != rows[1].task_id
        assert await worker.queue_size() == 1


async def test_a_row_that_cannot_be_sent_blocks_no_other(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A row that can't be sent stays and raises its error, and the other rows are handed on."""
    for number in ("T1", "T2"):
        async with database.session() as session:
            await receipt.enqueue(number).within(session)
    rows = await database.store.read(None, 10)
    await database.store.delete([rows[0].task_id])
    async with database.session() as session:
        await database.store.add(
            type(rows[0])(rows[0].task_id, "receipt", b"", "[]", rows[0].created_at), session
        )
    async with worker:
        with pytest.raises(Exception, match="rgument|nil"):
            await worker.courier.hand_on(database.store)
        assert await worker.queue_size() == 1
        assert [one.task_id for one in await database.store.read(None, 10)] == [rows[0].task_id]


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_a_savepoint_that_is_rolled_back_takes_its_call_along(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call of a savepoint that is rolled back is not enqueued, and the calls before it are."""
    async with worker:
        async with database.session() as session:
            kept = await receipt.enqueue("T1").within(session)
            with pytest.raises(ZeroDivisionError):
                async with session.begin_nested():
                    await receipt.enqueue("T2").within(session)
                    raise ZeroDivisionError
        await emptied(database.store)
        assert await worker.queue_size() == 1
        assert await worker.info_by_id(kept.id)


@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
async def test_a_rollback_includes_a_savepoint_that_came_first(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A rollback includes the rows and calls of a savepoint that was released before."""
    async with worker:
        with pytest.raises(ZeroDivisionError):
            async with database.session() as session:
                async with session.begin_nested():
                    await database.insert(session, "T1")
                    await receipt.enqueue("T1").within(session)
                raise ZeroDivisionError
        assert await database.orders() == set()
        assert await database.store.waiting() == (0, None)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_a_hand_on_that_is_late_ends_with_its_worker(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A worker that closes gives up a hand-on that its database delays, and its connection."""
    engine = sql_engine.get()
    lock = text("LOCK TABLE task_outbox IN ACCESS EXCLUSIVE MODE")
    async with engine.connect() as other:
        async with worker:
            async with database.session() as session:
                await receipt.enqueue("T1").within(session)
                locking = asyncio.ensure_future(other.execute(lock))  # granted by the commit
                await eventually(lambda: _waits_for_a_lock(session))
            await locking
        assert engine.pool.checkedout() == 1
        await other.rollback()
    assert (await database.store.waiting())[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_a_relay_gives_up_a_database_that_does_not_answer(
    database: Database, worker: TaskWorker, receipt: Any, caplog: pytest.LogCaptureFixture
):
    """A relay whose database is silent logs that once, and hands on what waits when it answers."""
    async with database.session() as session:
        await receipt.enqueue("T1").within(session)
    silent = "tasks wait in the outbox: no answer in time. See:  vibetuner doctor"
    async with sql_engine.get().connect() as other:
        await other.execute(text("LOCK TABLE task_outbox IN ACCESS EXCLUSIVE MODE"))
        async with worker, worker.courier.relaying():
            await eventually(lambda: silent in caplog.messages)
            await other.rollback()
            await emptied(database.store)
            assert await worker.queue_size() == 1
    assert caplog.messages.count(silent) == 1


async def _waits_for_a_lock(session: Any) -> bool:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return bool((await session.exec(waiting)).one()[0])


async def test_a_call_is_written_once_however_many_wait_for_it(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call that two others wait for has one row, and all three are enqueued."""
    shared = receipt.enqueue("shared")
    async with worker:
        async with database.session() as session:
            for number in ("T1", "T2"):
                await receipt.enqueue(number).start(after=shared).within(session)
            await database.insert(session, "T1")
        await emptied(database.store)
        assert await worker.queue_size() == 1
        assert len((await worker.info_by_id(shared.id)).dependents) == 2
    assert await database.orders() == {"T1"}


async def test_the_same_call_again_is_refused_and_the_transaction_goes_on(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A call that is written again raises TaskExists, even with a new key.

    The transaction can still be committed.
    """
    async with database.session() as session:
        call = receipt.enqueue("T1")
        await call.within(session)
        for again in (call, call.once("a key")):
            with pytest.raises(TaskExists, match=f"^receipt {call.id} is in the outbox already"):
                await again.within(session)
        await database.insert(session, "T1")
    assert [row.task_id for row in await database.store.read(None, 10)] == [call.id]
    assert await database.orders() == {"T1"}


async def test_an_object_that_is_no_session_is_refused(
    database: Database, worker: TaskWorker, receipt: Any
):
    """within() refuses None, other objects that are no session, and a call with a schedule."""
    with pytest.raises(TaskError, match=r"^receipt: within\(\) takes a session, not None\. "):
        receipt.enqueue("T1").within(None)
    with pytest.raises(TaskError, match="takes an AsyncSession .* not a dict. Open one"):
        await receipt.enqueue("T1").within({})
    with pytest.raises(TaskError, match="not for one that is repeated"):
        await receipt.enqueue("T1").start(schedule="0 3 * * *").within({})


async def test_an_id_that_is_too_long_for_the_table_is_refused(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A SQL table takes ids of 64 characters, and the transaction goes on after a longer one."""
    async with worker, database.session() as session:
        call = receipt.enqueue("T1").within(session)
        call.id = "x" * 65
        if isinstance(database.store, SqlOutbox):
            with pytest.raises(TaskError, match="an id takes up to 64 characters, not 65"):
                await call
            call.id = "x" * 64
        await call
    await emptied(database.store)
    async with worker:
        assert await worker.status_by_id(call.id) is TaskStatus.QUEUED


@pytest.mark.parametrize("database", ["mongodb"], indirect=True)
async def test_a_session_in_no_transaction_is_refused(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A MongoDB session without a transaction raises TaskError, as its row would stay."""
    from vibetuner.resources.slots import mongo_database

    async with mongo_database.get().client.start_session() as session:
        with pytest.raises(TaskError, match="in none. Begin one:  async with await session"):
            await receipt.enqueue("T1").within(session)


@pytest.mark.parametrize("database", ["mongodb"], indirect=True)
async def test_a_session_of_another_server_is_refused(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A session of another MongoDB server raises TaskError, as nobody would read its outbox."""
    async with (
        AsyncMongoClient("mongodb://127.0.0.1:1") as client,
        client.start_session() as session,
    ):
        async with await session.start_transaction():
            with pytest.raises(TaskError, match="takes a session of the server of MONGODB_URL"):
                await receipt.enqueue("T1").within(session)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_session_of_another_database_is_refused(
    database: Database, worker: TaskWorker, receipt: Any, tmp_path: Path
):
    """A session of another database raises TaskError with the URL of that database."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
    async with AsyncSession(engine) as session:
        with pytest.raises(TaskError, match=r"not of sqlite\+aiosqlite:.*other.db. Open one with"):
            await receipt.enqueue("T1").within(session)
    await engine.dispose()


async def test_the_error_for_a_missing_table_names_the_cure(stand_in: Any, settings: Settings):
    """within() raises NotConfigured with the model to add if the project has no outbox."""
    stand_in()
    worker = TaskWorker(settings)

    @worker.task(name="receipt")
    async def receipt(number: str) -> None: ...

    from sqlmodel.ext.asyncio.session import AsyncSession

    with pytest.raises(NotConfigured, match="Add Outbox .from vibetuner.tasks.outbox.sql. to"):
        await receipt.enqueue("T1").within(AsyncSession())


async def test_a_missing_table_is_logged_once_with_the_way_to_the_cure(
    stand_in: Any, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A worker whose database lacks the outbox's table logs one line, and one once it is there."""
    stand_in(tune=TUNE)
    own = settings.model_copy(update={"database_url": f"sqlite+aiosqlite:///{tmp_path}/new.db"})

    def told(words: str) -> list[str]:
        return [one for one in caplog.messages if words in one]

    with using_settings(own), caplog.at_level("INFO"):
        async with open_sql(own) as engine, TaskWorker(own) as worker, worker.courier.relaying():
            await eventually(lambda: told("tasks wait in the outbox"))
            async with engine.begin() as connection:
                await connection.run_sync(table_of(Outbox).create)
            await eventually(lambda: told("handed on again"))

    (line,) = told("tasks wait in the outbox")
    assert line.endswith("no such table: task_outbox. See:  vibetuner doctor")
    assert len(told("handed on again")) == 1
