"""Workers and sessions on hosts whose clocks are off."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.processes import clean_environment, run_code, run_vibetuner
from tests.projects import write_project
from tests.valkey import Valkey, opened
from tests.waiting import eventually
from tests.workshop import Workshop
from vibetuner.embedded.folder import valkey_binary
from vibetuner.redis.connection import server_ms
from vibetuner.scaffold.auth import draft_auth
from vibetuner.scaffold.changes import apply_changes
from vibetuner.scaffold.draft import Place
from vibetuner.scaffold.plan import plan_new
from vibetuner.tasks.run.delayed import Cron

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed"),
]


# Issues the token of a session, or prints the subject of one.
SESSION = """
import asyncio, sys
from vibetuner.config import get_settings
from vibetuner.loader import load_project
from vibetuner.resources.sql import create_schema, open_sql

models = load_project().sql_models
from shop import auth

async def main():
    await create_schema(get_settings(), models)
    async with open_sql(get_settings()):
        tokens = sys.argv[1:]
        print(await (auth.check("session", *tokens) if tokens else auth.issue("session", "7")))

asyncio.run(main())
"""


def another_clock(offset: str) -> dict[str, str]:
    """Return the environment variables of a process whose clock is off.

    The command `faketime` would start the process as its child, and pass no signals on.
    """
    library = subprocess.check_output(["faketime", "-f", offset, "printenv", "LD_PRELOAD"])
    return {
        "LD_PRELOAD": library.decode().strip(),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.mark.parametrize(
    ("offset", "relation"), [("-90s", "behind"), ("+90s", "ahead of")], ids=["behind", "ahead"]
)
async def test_a_worker_whose_clock_is_off_is_alive_and_in_time(
    servers: Any, tmp_path: Path, offset: str, relation: str
):
    """Heartbeats, delays and retries use the server's clock, and the doctor reports the offset."""
    workshop = Workshop(tmp_path, servers.urls["redis"])
    with workshop.worker(**another_clock(offset)) as worker:
        async with workshop.queue() as queue:
            began = time.monotonic()
            late = await queue.enqueue_unsafe("work", str(workshop.journal), 0).start(delay=2)
            dead = await queue.enqueue_unsafe("work", str(tmp_path / "none" / "none"), 0)
            assert (await late.result(timeout=30)).success
            assert 2 <= time.monotonic() - began < 60  # not 90 s off
            assert not (await dead.result(timeout=30)).success  # after a retry
            assert time.monotonic() - began < 80
        ran = [
            await asyncio.to_thread(
                run_vibetuner, *command, folder=workshop.root, **workshop.variables
            )
            for command in (("worker-health",), ("doctor",), ("tasks", "stats"))
        ]
        assert ran[0].returncode == 0, ran[0].stderr
        # What a heartbeat takes to arrive at a busy server counts as an offset.
        told = rf"the clock of {re.escape(os.uname().nodename)} is (8[5-9]|9[0-5]) s {relation} "
        for one in ran[1:]:
            assert re.search(f"{told}that of Redis", one.stdout), one.stdout
    assert worker.process.returncode == 0


REPEATING = """
    import asyncio
    from vibetuner.config import get_settings
    from vibetuner.tasks.worker import TaskWorker

    async def main():
        worker = TaskWorker(get_settings())

        @worker.task(name="tick")
        async def tick(): ...

        async with worker:
            task = await tick.enqueue().start(schedule="* * * * *")
            keys, call = worker.client.keys, worker.client.functions.connection.call
            now = int((await call("TIME"))[0])
            for key in (keys.cron_schedule, keys.delayed(worker.priorities[-1])):
                print(float(await call("ZSCORE", key, task.id)) / 1000 - now)

    asyncio.run(main())
"""


@pytest.mark.parametrize("offset", ["-90s", "+90s"])
def test_a_schedule_of_a_host_whose_clock_is_off_begins_in_time(
    servers: Any, tmp_path: Path, offset: str
):
    """The first run of a schedule is due within the next minute of the server's clock."""
    workshop = Workshop(tmp_path, servers.urls["redis"])
    ran = subprocess.run(
        [sys.executable, "-c", dedent(REPEATING)],
        cwd=workshop.root,
        env=clean_environment(**workshop.variables, **another_clock(offset)),
        capture_output=True,
        text=True,
        check=False,
    )
    waits = [float(line) for line in ran.stdout.splitlines()]
    assert len(waits) == 2, ran.stderr
    assert all(0 <= wait <= 60 for wait in waits), waits


@pytest.mark.parametrize("hours", [1, 24 * 365 * 10], ids=["an hour", "ten years"])
async def test_schedules_follow_a_clock_that_is_set_back(
    tmp_path: Path, hours: int, caplog: pytest.LogCaptureFixture
):
    """A schedule that waited for a wrong time runs within a minute of the right one."""
    ahead, program = tmp_path / "ahead", tmp_path / "server"
    library = another_clock("+0")["LD_PRELOAD"]
    program.write_text(
        f"#!/bin/sh\nexec env 'LD_PRELOAD={library}' FAKETIME_TIMESTAMP_FILE={ahead} "
        f'FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 {valkey_binary()} "$@"\n'
    )
    program.chmod(0o700)
    ahead.write_text(f"+{hours * 3600}\n")
    with Valkey(tmp_path, lasting=False, program=str(program)) as server:
        async with opened(server) as (worker, number):
            client = worker.client
            call, keys = client.functions.connection.call, client.keys
            cron = Cron(client, queue_of=worker.queue_of, next_run=worker.next_run)
            task = await number.enqueue(1).start(schedule="* * * * *")

            async def wait() -> float:
                """Return the seconds until the next run."""
                due, now = await call("ZSCORE", keys.cron_schedule, task.id), await call("TIME")
                return (float(due) - server_ms(now)) / 1000

            async def wait_long() -> bool:
                return await wait() > 60

            await cron.schedule_due()
            assert -5 < await wait() <= 60
            ahead.write_text("+0\n")
            await eventually(wait_long, what=lambda: "the right time")
            await cron.schedule_due()
            assert 0 <= await wait() <= 60
    assert "the clock of Redis was set back by" in caplog.text


def test_a_session_holds_on_a_machine_whose_clock_is_behind(tmp_path: Path):
    """A session that one machine begins is valid on another, whose clock is a minute behind."""
    base = {"templates/base.html": "{% block content %}{% endblock %}"}
    place = Place(write_project(tmp_path, base, env="DATABASE_URL=sqlite:///app.db\n"), "shop")
    apply_changes(plan_new(place, draft_auth(place)).changes)

    def run(*token: str, **variables: str) -> str:
        done = run_code(SESSION, *token, folder=tmp_path, SECRET_KEY="of this test", **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    token = run(**another_clock("+60s"))
    assert run(token) == "7"
    assert run(token, **another_clock("+31d")) == "None"
