"""Events in a Cluster, which use sharded pub/sub in the slot of the queue."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator

import pytest

from tests.clusters import Clustered
from tests.runtime.redis.test_cluster import other_than, settings_of
from tests.runtime.sse.test_relay import next_of, relaying, said
from tests.waiting import eventually
from vibetuner.sse.hub import Hub


@pytest.fixture
def cluster(clustered: Clustered) -> Iterator[Clustered]:
    """Yield the session's Cluster, and make it whole again afterwards."""
    yield clustered
    clustered.heal()


def heard(cluster: Clustered, port: int, kind: str) -> int:
    """Return how many messages of a kind have reached a node over the Cluster's bus."""
    info = str(cluster.on(port, "CLUSTER", "INFO"))
    found = re.search(rf"cluster_stats_messages_{kind}_received:(\d+)", info)
    return int(found[1]) if found else 0


async def test_an_event_reaches_the_nodes_of_its_shard_alone(cluster: Clustered):
    """An event reaches only the nodes of its shard, unlike with PUBLISH."""
    primary, (replica,) = cluster.primary, cluster.replicas
    others = [port for port in cluster.nodes if port not in (primary, replica)]
    before = {port: heard(cluster, port, "publish") for port in cluster.nodes}
    shard_before = {port: heard(cluster, port, "publishshard") for port in cluster.nodes}

    async with relaying(settings_of(cluster), Hub()) as (subscriber, history):
        for number in range(20):
            await history.send("news", "hello", str(number))
        events = await next_of(subscriber, 20)

    assert [data for _, data in events] == [str(number) for number in range(20)]
    await eventually(lambda: heard(cluster, replica, "publishshard") >= shard_before[replica] + 20)
    for port in others:
        assert heard(cluster, port, "publishshard") == shard_before[port]
        assert heard(cluster, port, "publish") == before[port]


async def test_a_relay_follows_its_slot_without_a_gap(
    cluster: Clustered, caplog: pytest.LogCaptureFixture
):
    """A relay follows its slot to another node, and no event is lost or sent twice."""
    caplog.set_level(logging.INFO)
    old = cluster.primary
    target = other_than(cluster, old)
    found: list[tuple[str, str]] = []
    async with relaying(settings_of(cluster), Hub()) as (subscriber, history):
        enough, sent = asyncio.Event(), 0

        async def send() -> None:
            nonlocal sent
            while not enough.is_set():
                await history.send("news", "hello", str(sent))
                sent += 1

        async def read() -> None:
            while True:
                found.extend(await next_of(subscriber))

        sending, reading = asyncio.create_task(send()), asyncio.create_task(read())
        await eventually(lambda: len(found) > 5)
        await asyncio.to_thread(move, cluster, target)
        moved = sent
        await eventually(lambda: len(found) > moved + 20)
        enough.set()
        await sending
        await eventually(lambda: len(found) >= sent)
        reading.cancel()

    assert found == [("hello", str(number)) for number in range(sent)]
    assert cluster.primary == target
    assert said(caplog) == []


def move(cluster: Clustered, target: int) -> None:
    """Move the queue's slot."""
    with cluster.moving(target):
        pass
