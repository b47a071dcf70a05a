"""A server that refuses for a while, or only some commands, is reported once, with the cause."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import run_vibetuner
from tests.runtime.conftest import Running
from tests.valkey import Valkey
from tests.waiting import eventually, wait_until
from tests.workshop import Workshop
from vibetuner.config import using_settings
from vibetuner.redis.blocking import ask, responds
from vibetuner.redis.url import parse_url
from vibetuner.tasks.worker import TaskWorker

Heal = Callable[[], None]


def fail_to_save(server: Valkey, folder: Path) -> Heal:
    """Make the server's snapshots fail, so that it refuses writes."""
    address = parse_url(server.url)
    obstacle = folder / "dump.rdb"
    obstacle.mkdir()
    ask(address, ["CONFIG", "SET", "save", "3600 1"])
    ask(address, ["BGSAVE"])
    failed = "rdb_last_bgsave_status:err"
    wait_until(lambda: failed in str(ask(address, ["INFO", "persistence"])), what=lambda: failed)

    def heal() -> None:
        obstacle.rmdir()
        ask(address, ["BGSAVE"])

    return heal


@contextmanager
def busy(server: Valkey) -> Iterator[Heal]:
    """Let the server run a script without an end."""
    address = parse_url(server.url)
    ask(address, ["CONFIG", "SET", "busy-reply-threshold", "1"])
    code = (
        f"import socket; s = socket.create_connection(('127.0.0.1', {server.port}));"
        "s.sendall(b'EVAL \"while true do end\" 0\\r\\n'); s.recv(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            wait_until(lambda: not responds(server.port), what=lambda: "a busy server")
            yield lambda: ask(address, ["SCRIPT", "KILL"])
        finally:
            process.kill()


@pytest.mark.slow
async def test_a_worker_starts_once_redis_can_save(tmp_path: Path):
    """A worker that starts while Redis can't save names the cause, waits, and then runs tasks."""
    data = tmp_path / "data"
    data.mkdir()
    with Valkey(data, lasting=False) as server:
        workshop = Workshop(tmp_path, server.url)
        heal = fail_to_save(server, data)
        with workshop.worker(is_ready=False) as worker:
            worker.wait_for("; trying again", seconds=60)
            assert re.search("MISCONF .* Make room on its disk, .*; trying again", worker.output)
            failed = await asyncio.to_thread(
                run_vibetuner, "tasks", "stats", folder=workshop.root, **workshop.variables
            )
            assert failed.returncode == 1
            assert "MISCONF" in failed.stderr
            assert "Make room on its disk" in failed.stderr
            assert "rights" not in failed.stderr
            heal()
            worker.wait_for("worker ready", seconds=60)
            await workshop.enqueue("work", str(workshop.journal), 0)
            await asyncio.to_thread(workshop.wait_for, "begun, try 1", "done")
    assert worker.output.count("trying again") == 1


@pytest.mark.slow
def test_a_busy_server_has_a_cure_of_its_own(tmp_path: Path):
    """Commands and the doctor advise to end the script that a busy server runs."""
    with Valkey(tmp_path, lasting=False) as server:
        workshop = Workshop(tmp_path, server.url)
        with busy(server) as heal:
            for command in (["tasks", "stats"], ["doctor"]):
                done = run_vibetuner(*command, folder=workshop.root, **workshop.variables)
                said = done.stdout + done.stderr
                assert re.search(r"BUSY .*(\n.*)?ait for the script that it runs", said), said
                assert "refuses functions" not in said
            heal()


async def test_a_refusal_of_some_commands_is_logged_once(
    stand_in: Callable[..., Path],
    tmp_path: Path,
    running: Running,
    caplog: pytest.LogCaptureFixture,
):
    """While Redis refuses only some commands, the log has one line, and one at the end."""
    stand_in()
    caplog.set_level(logging.INFO)
    rules = ("--user", "tester", "on", ">x", "~*", "&*", "+@all")
    with Valkey(tmp_path, lasting=False, options=rules) as server:
        address = parse_url(server.url)
        url = server.url.replace("://", "://tester:x@")
        settings = server.settings.model_copy(update={"redis_url": url})
        with using_settings(settings):
            worker = TaskWorker(settings)

            @worker.task(name="again", max_tries=None)
            async def again() -> int:
                return 1

            async with running(worker):
                # Of the loops, only the one that looks for tasks to be aborted uses it.
                await asyncio.to_thread(ask, address, ["ACL", "SETUSER", "tester", "-smembers"])
                refused = "Redis refuses (NOPERM"
                await eventually(lambda: refused in caplog.text)

                async def has_refused_more() -> bool:
                    assert (await (await again.enqueue()).result(timeout=30)).result == 1
                    (log,) = await asyncio.to_thread(ask, address, ["ACL", "LOG"])
                    return int(log[0][1]) > 3

                await eventually(has_refused_more)
                assert "Redis is back" not in caplog.messages
                await asyncio.to_thread(ask, address, ["ACL", "SETUSER", "tester", "+smembers"])
                await eventually(lambda: "Redis is back" in caplog.messages)
                assert caplog.text.count(refused) == caplog.messages.count("Redis is back") == 1
