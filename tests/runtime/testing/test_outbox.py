"""Calls with ``once()`` and ``within()``, as a test sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import OperationFailure
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from vibetuner.resources.mongo import Database
from vibetuner.resources.sql import open_session
from vibetuner.tasks.worker import get_worker
from vibetuner.testing import ManualWorker

TUNE = """
    from vibetuner import VibetunerApp
    from vibetuner.tasks.outbox.sql import Outbox

    app = VibetunerApp(sql_models=[Outbox])
"""

ran: list[str] = []


@get_worker().task()
async def note_once(text: str) -> str:
    ran.append(text)
    return text


@pytest.fixture
def in_a_project(stand_in: Callable[..., Path]) -> Path:
    """Change into a project with an outbox in its database."""
    ran.clear()
    return stand_in(tune=TUNE)


async def test_a_call_with_a_session_is_enqueued_by_the_commit(
    in_a_project: Path, vibetuner_sql: AsyncEngine, vibetuner_worker: ManualWorker
):
    """A call with a session counts as enqueued after the commit, and never after a rollback."""
    async with open_session() as session:
        await note_once.enqueue("a").within(session)
        vibetuner_worker.assert_enqueued(note_once, times=0)
        await session.commit()
        vibetuner_worker.assert_enqueued(note_once, args=("a",), times=1)
        await note_once.enqueue("b").within(session)
        await session.rollback()
    await vibetuner_worker.run_until_idle()
    assert ran == ["a"]
    vibetuner_worker.assert_enqueued(note_once, times=1)


async def test_a_call_of_a_savepoint_that_is_rolled_back_was_not_enqueued(
    in_a_project: Path, vibetuner_sql: AsyncEngine, vibetuner_worker: ManualWorker
):
    """A savepoint's rollback takes its calls with it, also those of a savepoint inside."""
    async with open_session() as session:
        async with session.begin_nested() as outer:
            async with session.begin_nested():
                await note_once.enqueue("inside").within(session)
            await note_once.enqueue("outside").within(session)
            await outer.rollback()
        async with session.begin_nested():
            await note_once.enqueue("kept").within(session)
        await session.commit()
    vibetuner_worker.assert_enqueued(note_once, times=1)
    await vibetuner_worker.run_until_idle()
    assert ran == ["kept"]


async def test_a_call_of_an_aborted_transaction_was_not_enqueued(
    in_a_project: Path, vibetuner_db: Database, vibetuner_worker: ManualWorker
):
    """A MongoDB session that goes on after an abort reports the calls of its commit only."""
    async with vibetuner_db.client.start_session() as session:
        attempts = iter(["first", "second", "third"])

        async def write(same: Any) -> None:
            attempt = next(attempts)
            await note_once.enqueue(attempt).within(same)
            await note_once.enqueue("and again").within(same)
            if attempt != "third":
                raise OperationFailure("", 112, {"errorLabels": ["TransientTransactionError"]})

        await session.with_transaction(write)
    vibetuner_worker.assert_enqueued(note_once, times=2)
    await vibetuner_worker.run_until_idle()
    assert sorted(ran) == ["and again", "third"]


async def test_a_session_of_a_fixture_is_one_of_the_projects_database(
    in_a_project: Path,
    vibetuner_sql: AsyncEngine,
    vibetuner_db: Database,
    vibetuner_worker: ManualWorker,
):
    """`within()` takes sessions of what the fixtures yield; the worker has its own connections."""
    async with AsyncSession(vibetuner_sql) as session:
        await note_once.enqueue("in SQL").within(session)
        await note_once.enqueue("in SQL").within(session).once("evt")
        await session.commit()
    async with vibetuner_db.client.start_session() as mongo, await mongo.start_transaction():
        await note_once.enqueue("in MongoDB").within(mongo)
        await note_once.enqueue("in MongoDB").within(mongo).once("other")
    await vibetuner_worker.run_until_idle()
    assert sorted(ran) == ["in MongoDB", "in MongoDB", "in SQL", "in SQL"]


async def test_a_second_call_with_a_key_was_not_enqueued(
    in_a_project: Path, vibetuner_sql: AsyncEngine, vibetuner_worker: ManualWorker
):
    """A second call with a key is not enqueued, alone, in a batch or with a commit."""
    await note_once.enqueue("a").once("evt")
    await get_worker().enqueue_many([note_once.enqueue("a").once("evt")])
    async with open_session() as session:
        await note_once.enqueue("a").within(session).once("evt")
        await session.commit()
    await vibetuner_worker.run_until_idle()
    assert ran == ["a"]
    vibetuner_worker.assert_enqueued(note_once, times=1)


async def test_inline_runs_what_is_enqueued_once(
    in_a_project: Path, vibetuner_sql: AsyncEngine, vibetuner_worker: ManualWorker
):
    """Inline, a call with a key runs at once, and one with a commit at the block's end."""
    async with vibetuner_worker.inline():
        await note_once.enqueue("a").once("evt")
        assert ran == ["a"]
        async with open_session() as session:
            await note_once.enqueue("b").within(session)
            await session.commit()
    assert ran == ["a", "b"]
