"""Servers that replicate, of which one at a time has a fault."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Literal

from tests.clusters import PREFIX, Clustered
from tests.sentinels import Replicated
from tests.waiting import wait_until

__all__ = ["Replication", "make_replication"]

WHOLE_SECONDS = 90
PROMOTION_SECONDS = 60
DOWN_AFTER_MS = 2000
LAG_SECONDS = 0.7
KEYS_AT_ONCE = 50
LASTING = ("--appendonly", "yes", "--appendfsync", "always")
# As the documentation advises: a shard without a primary stops only its own queues.
OF_A_NODE = (
    "--cluster-node-timeout", str(DOWN_AFTER_MS), "--cluster-require-full-coverage", "no"
)  # fmt: skip


def make_replication(kind: Literal["sentinel", "cluster"], folder: Path) -> Replication:
    """Return three servers with three Sentinels, or three shards with a replica each."""
    folder.mkdir()
    if kind == "cluster":
        return Replication(Clustered(folder, options=(*LASTING, *OF_A_NODE)), PREFIX)
    return Replication(Replicated(folder, options=LASTING, down_after=DOWN_AFTER_MS), "chaos:")


class Replication:
    """The servers of a project's REDIS_URL; ``with replication.servers:`` starts and ends them."""

    def __init__(self, servers: Replicated | Clustered, prefix: str) -> None:
        self.servers = servers
        self.prefix = prefix
        self.busy = asyncio.Lock()

    @property
    def url(self) -> str:
        """Return the value of REDIS_URL."""
        return self.servers.url

    async def ready(self) -> None:
        """Return once there is one primary, and all its replicas follow it."""
        await asyncio.to_thread(self._wait_until_whole)

    async def strike(self, kind: str, seconds: float) -> None:
        """Inflict the fault, and return when the servers have recovered."""
        await asyncio.to_thread(self._strike, kind, seconds)

    def _strike(self, kind: str, seconds: float) -> None:
        servers, old = self.servers, self.servers.primary
        replicas = servers.replicas
        match kind:
            case "primary killed":
                self._replace(old)
            case "primary killed with a lag":
                # Writes that the primary acknowledges from here on are lost with it.
                servers.hold_back()
                time.sleep(LAG_SECONDS)
                self._replace(old, frozen=replicas)
            case "primary frozen":
                self._freeze(old, seconds)
            case "replica promoted":
                servers.freeze(old)
                servers.wait_for_promotion(old, seconds=PROMOTION_SECONDS)
                # The old primary believes that it still is one until it is corrected.
                servers.thaw(old)
            case "failover ordered":
                options = () if isinstance(servers, Clustered) else ("COORDINATED",)
                servers.replace(old, *options)
            case "replica killed":
                servers.kill(replicas[0])
                time.sleep(seconds)
                servers.launch_replica(replicas[0])
            case "replica frozen":
                self._freeze(replicas[0], seconds)
            case _:
                self._strike_cluster(kind, old)
        self._wait_until_whole()

    def _strike_cluster(self, kind: str, old: int) -> None:
        servers = self.servers
        assert isinstance(servers, Clustered)  # noqa: S101 - as the plan has it
        other = next(port for port in servers.primaries if port != old)
        match kind:
            case "slot moved":
                servers.begin_move(old, other)
                servers.move_keys(old, other, by=KEYS_AT_ONCE)
                servers.end_move(other)
            case "other primary killed":
                servers.kill(other)
                wait_until(
                    lambda: len(servers.primaries) == servers.shards,
                    seconds=PROMOTION_SECONDS,
                    what=lambda: "a primary in the other shard",
                )
                servers.launch(other)

    def _replace(self, old: int, *, frozen: list[int] | None = None) -> None:
        """Kill the primary, and start it again when another server has been promoted."""
        self.servers.kill(old)
        for port in frozen or ():
            self.servers.thaw(port)
        self.servers.wait_for_promotion(old, seconds=PROMOTION_SECONDS)
        self.servers.launch(old)

    def _freeze(self, port: int, seconds: float) -> None:
        self.servers.freeze(port)
        time.sleep(seconds)
        self.servers.thaw(port)

    def _wait_until_whole(self) -> None:
        wait_until(
            self.servers.is_whole, seconds=WHOLE_SECONDS, what=lambda: "replicas that follow"
        )
