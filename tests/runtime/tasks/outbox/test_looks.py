"""Views of the outbox in commands and on pages."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.runtime.tasks.outbox.conftest import TUNE, Database
from vibetuner.cli import task_queue
from vibetuner.cli.checks.services import _read_outbox
from vibetuner.config import Settings
from vibetuner.loader import load_project
from vibetuner.resources.sql import create_schema
from vibetuner.tasks.inspect.actions import abort, enqueue_again
from vibetuner.tasks.inspect.detail import find_task, gather
from vibetuner.tasks.inspect.model import State
from vibetuner.tasks.inspect.queue import this_queue
from vibetuner.tasks.inspect.stats import open_outbox, read_outbox, read_stats
from vibetuner.tasks.inspect.why import explain
from vibetuner.tasks.worker import TaskWorker, using_worker


async def test_a_waiting_row_is_reported(database: Database, worker: TaskWorker, receipt: Any):
    """A waiting row is explained and counted.

    A row that no relay would leave for so long is reported as a warning, with the cure.
    """
    async with database.session() as session:
        task = await receipt.enqueue("T1").within(session)
    with using_worker(worker):
        async with worker:
            row, reasons = await explain(this_queue(), task.id)
            assert (row.name, row.state) == ("receipt", State.WAITING)
            assert "a worker hands it on within five seconds" in reasons[0].text
            assert (await find_task(this_queue(), task.id)).row.state is State.WAITING
            assert [one.level for one in await _read_outbox()] == ["ok"]

            [waiting] = await database.store.read(None, 1)
            await database.store.delete([task.id])
            async with database.session() as session:
                old = replace(waiting, created_at=waiting.created_at - timedelta(minutes=3))
                await database.store.add(old, session)

            _, reasons = await explain(this_queue(), task.id)
            assert "no worker hands them on" in reasons[0].text
            assert "start one:" in reasons[0].cure
            assert [one.level for one in await _read_outbox()] == ["warning"]
            assert "1 in the outbox, the oldest for 3 min" in await shown()
            await worker.courier.hand_on_all()
            assert "outbox" not in await shown()
            assert await _read_outbox() == []


async def test_a_waiting_row_is_a_task_like_any_other(
    database: Database, worker: TaskWorker, receipt: Any
):
    """A waiting row shows its arguments, and can be enqueued again, waited for and aborted."""
    async with database.session() as session:
        task = await receipt.enqueue("T1").within(session)
        later = await receipt.enqueue("T2").start(delay=60).within(session)
    with using_worker(worker):
        async with worker:
            queue = this_queue()
            assert (await find_task(queue, task.id)).arguments == {"number": "T1"}
            assert await enqueue_again(queue, task.id) != task.id
            following = await receipt.enqueue("T3").start(after=task.id)
            _, reasons = await explain(queue, following.id)
            assert f"It waits for receipt {task.id}" in [reason.text for reason in reasons]

            assert await abort(queue, later.id) is True
            assert (await find_task(queue, later.id)).row.state is State.ABORTED
            assert await task.abort(0) is False  # marked
            assert await database.store.waiting() == (0, None)
            assert (await gather(queue, task.id)).in_abort_set


async def shown() -> str:
    """Return the output of `vibetuner tasks stats`."""
    with redirect_stdout(io.StringIO()) as out:
        task_queue.print_stats(await read_stats(this_queue()))
    return out.getvalue()


async def test_a_command_opens_the_database_for_its_look(stand_in: Any, settings: Settings):
    """A command opens the database itself, and shows no outbox if the table is missing."""
    stand_in(tune=TUNE)
    async with open_outbox():
        assert await read_outbox() is None
    await create_schema(settings, load_project().sql_models)
    async with open_outbox():
        found = await read_outbox()
    assert found is not None
    assert (found.waiting, found.text) == (0, "0 in the outbox")


def test_the_outbox_loads_no_driver_and_no_dialect():
    """Importing the outbox's table loads no database's dialect; PostgreSQL's is 8 MB."""
    program = (
        "import sys, vibetuner.tasks.outbox.sql\n"
        "print(*(name for name in sys.modules if name.startswith('sqlalchemy.dialects.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []
