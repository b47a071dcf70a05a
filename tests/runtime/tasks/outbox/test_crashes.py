"""A process that is killed between any two steps leaves as many receipts as orders."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.processes import clean_environment
from tests.runtime.tasks.outbox.conftest import Database
from tests.waiting import eventually
from vibetuner.config import get_settings
from vibetuner.tasks.worker import TaskWorker

PROGRAM = Path(__file__).with_name("crashing.py")
# CRASHED_ORDERS=1000 kills a process at every step, and takes minutes, as each order is a process.
# The default kills one at every 29th step.
FEW = 16
ORDERS = int(os.environ.get("CRASHED_ORDERS", FEW))
STRIDE = 29 if ORDERS == FEW else 1
SHOP = """
    from vibetuner.tasks.worker import get_worker


    @get_worker().task(name="receipt")
    async def receipt(number: str) -> None: ...
"""


@pytest.mark.slow
async def test_there_are_as_many_receipts_as_orders(
    database: Database, worker: TaskWorker, running: Any
):
    """Each committed order has one receipt, at whichever step its process was killed.

    The steps include the awaits of insert, enqueue, commit and hand on, and the statements.
    """
    project = Path.cwd()
    tune = project / "src/shop/tune.py"
    (project / "src/shop/jobs.py").write_text(SHOP.replace("\n    ", "\n").strip() + "\n")
    tune.write_text(
        tune.read_text()
        .replace("app = ", "from shop.jobs import receipt\n\napp = ")
        .replace("sql_models=", "tasks=[receipt], sql_models=")
    )
    settings = get_settings()
    environment = clean_environment(
        ENVIRONMENT="test",
        REDIS_URL=settings.redis_url,
        REDIS_KEY_PREFIX=settings.redis_key_prefix,
        DATABASE_URL=settings.database_url or "",
        MONGODB_URL=settings.mongodb_url or "",
        SECRET_KEY=settings.secret_key.get_secret_value() if settings.secret_key else "",
    )
    command = [sys.executable, str(PROGRAM), str(ORDERS), str(STRIDE)]
    placing = await asyncio.to_thread(
        subprocess.run, command, cwd=project, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert placing.returncode == 0, placing.stderr
    assert int(placing.stdout) > 10
    print(f"{ORDERS} orders, up to {placing.stdout.strip()} steps each")

    receipts = Counter[str]()

    @worker.task(name="receipt")
    async def receipt(number: str) -> None:
        receipts[number] += 1

    async with running(worker):
        await worker.courier.hand_on_all()

        async def is_empty() -> bool:
            return await worker.queue_size() == 0

        await eventually(is_empty, what=lambda: "an empty queue")
    orders = await database.orders()
    assert set(receipts) == orders
    assert set(receipts.values()) <= {1}
    assert 0 < len(orders) < ORDERS
    print(f"{len(orders)} were committed, {len(receipts)} receipts sent")
