"""A Redis whose memory is full refuses new tasks in one line, and still records ends of tasks."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_vibetuner
from tests.valkey import Valkey
from tests.workshop import Workshop
from vibetuner.config import using_settings
from vibetuner.errors import RedisFull
from vibetuner.redis.blocking import ask
from vibetuner.redis.client import open_resource
from vibetuner.redis.url import parse_url
from vibetuner.sse import broadcast
from vibetuner.tasks.dead_letters import list_letters
from vibetuner.tasks.worker import using_worker

FULL = r"Redis at .* has no memory left \(1\d\d % of [\d.]+ MB are used\), so it takes no new tasks"
NO_FUNCTIONS = ("ACL", "SETUSER", "default", "-fcall", "-function")


def fill(valkey: Valkey) -> None:
    """Limit the server's memory to less than it uses."""
    address = parse_url(valkey.url)
    (info,) = ask(address, ["INFO", "memory"])
    used = int(re.findall(r"used_memory:(\d+)", str(info))[0])
    ask(address, ["CONFIG", "SET", "maxmemory-policy", "noeviction"])
    ask(address, ["CONFIG", "SET", "maxmemory", str(used * 2 // 3)])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["functions", "scripts"])
async def test_a_worker_starts_and_records_ends_on_a_full_server(tmp_path: Path, way: str):
    """Tasks that are queued when memory runs out still succeed, or become dead letters.

    The worker starts, and passes its health check.
    """
    with Valkey(tmp_path) as valkey:
        if way == "scripts":
            ask(parse_url(valkey.url), NO_FUNCTIONS)
        workshop = Workshop(tmp_path, valkey.url)
        async with workshop.queue() as queue:

            def work(journal: Path, seconds: float) -> Any:
                return queue.enqueue_unsafe("work", str(journal), seconds)

            done = [await work(workshop.journal, seconds) for seconds in (0, 2)]
            done.append(await work(workshop.journal, 0).start(delay=2))
            dead = await work(tmp_path / "none" / "none", 0)
            fill(valkey)
            with pytest.raises(RedisFull, match=FULL) as caught:
                await work(workshop.journal, 0)
            assert "\n" not in str(caught.value)
            with workshop.worker() as worker:
                for task in done:
                    assert (await task.result(timeout=30)).success
                assert not (await dead.result(timeout=30)).success
                probe = await asyncio.to_thread(
                    run_vibetuner, "worker-health", folder=workshop.root, **workshop.variables
                )
                assert probe.returncode == 0, probe.stderr
            with using_worker(queue):
                page = await list_letters()

    assert [letter.task_id for letter in page.letters] == [dead.id]
    assert workshop.lines.count("begun, try 1") == workshop.lines.count("done") == len(done)
    assert worker.process.returncode == 0
    assert not re.search("could not record|Redis refuses", worker.output), worker.output


async def test_an_event_for_a_full_server_is_refused_in_one_line(tmp_path: Path):
    """A broadcast to a full server raises RedisFull in one line, as an enqueue does."""
    with Valkey(tmp_path) as valkey, using_settings(valkey.settings):
        async with open_resource(valkey.settings, None):
            await broadcast("news", "hello")
            fill(valkey)
            with pytest.raises(RedisFull, match=FULL) as caught:
                await broadcast("news", "hello")
            assert "\n" not in str(caught.value)
