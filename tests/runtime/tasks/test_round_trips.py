"""Requests that enqueue at the same time share round trips, on every topology."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clusters import PREFIX, Clustered
from tests.sentinels import Replicated
from tests.valkey import Servers, Valkey, opened
from vibetuner.redis.blocking import ask
from vibetuner.redis.url import Address, parse_url

AT_ONCE, BURSTS = 50, 5


@pytest.mark.parametrize("kind", ["single", "sentinel", "cluster"])
async def test_simultaneous_calls_share_one_write(
    request: pytest.FixtureRequest, stand_in: Callable[[], Path], tmp_path: Path, kind: str
):
    """The server reads less than half as often as calls are made, and each call has its task."""
    stand_in()
    if kind == "cluster":
        clustered: Clustered = request.getfixturevalue("clustered")
        await count_reads(clustered)
        return
    with Valkey(tmp_path) if kind == "single" else Replicated(tmp_path) as server:
        await count_reads(server)


async def count_reads(server: Valkey | Servers) -> None:
    """Assert that the server reads less often than calls are enqueued."""
    address = parse_url(server.url, PREFIX)
    async with opened(server, redis_key_prefix=PREFIX, secret_key="k" * 40) as (worker, number):
        await number.enqueue(0)
        before, reads = await worker.queue_size(), await asyncio.to_thread(reads_of, address)
        ids = set()
        for _ in range(BURSTS):
            # Each call has an asyncio task of its own, as in a web process with as many requests.
            calls = [asyncio.ensure_future(number.enqueue(n).start()) for n in range(AT_ONCE)]
            ids |= {task.id for task in await asyncio.gather(*calls)}
        reads = await asyncio.to_thread(reads_of, address) - reads
        assert len(ids) == await worker.queue_size() - before == AT_ONCE * BURSTS
    # The counts include Sentinels, replicas and the processes that watch them.
    assert reads < AT_ONCE * BURSTS / 2


def reads_of(address: Address) -> int:
    """Return how often the server has read from its connections."""
    (info,) = ask(address, ["INFO", "stats"])
    found = re.search(r"total_reads_processed:(\d+)", str(info))
    assert found is not None
    return int(found[1])
