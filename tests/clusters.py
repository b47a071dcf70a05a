"""A Cluster for single tests: three shards with a replica each; a failover takes three seconds."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import free_port
from tests.valkey import Servers
from tests.waiting import wait_until
from vibetuner.redis.blocking import RefusedError
from vibetuner.redis.url import SLOTS, Cluster, Tls

__all__ = ["PREFIX", "Clustered"]

PREFIX = "{own}:"
SHARDS = 3


class Clustered(Servers):
    """The nodes of a Cluster, named by their ports, and started by ``with``.

    Args:
        folder: the folder for their data.
        binary: the server's program.
        options: more options of the servers.
        tls: the client's TLS settings, if they are to use TLS.
    """

    filler = f"{PREFIX}filler"
    shards = SHARDS

    def __init__(
        self,
        folder: Path,
        *,
        binary: str | None = None,
        options: tuple[str, ...] = (),
        tls: Tls | None = None,
    ) -> None:
        super().__init__(folder, program=binary, tls=tls)
        self.nodes = [free_port() for _ in range(2 * SHARDS)]
        self.slot = Cluster(hosts=(), prefix=PREFIX).slot
        self._buses = {port: free_port() for port in self.nodes}
        self._options = options

    @property
    def url(self) -> str:
        """Return the REDIS_URL, which names half of the nodes."""
        scheme = "rediss" if self._tls else "redis"
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.nodes[:SHARDS])
        return f"{scheme}+cluster://{hosts}"

    @property
    def primaries(self) -> list[int]:
        """Return the ports of the living primaries, according to the first node that answers."""
        return [port for port in self.nodes if "myself,master" in self._about(port)]

    @property
    def primary(self) -> int:
        """Return the port of the primary of the queue's slot."""
        return self.primary_of(self.slot)

    @property
    def replicas(self) -> list[int]:
        """Return the ports of the replicas of the queue's primary."""
        owner = self._id(self.primary)
        return [port for port in self.nodes if f"myself,slave {owner}" in self._about(port)]

    def primary_of(self, slot: int) -> int:
        """Return the port of the primary that claims to serve a slot, or 0."""
        return next((port for port in self.primaries if self._named_by(port, slot) == port), 0)

    def start(self) -> None:
        """Start all nodes, assign the slots, and wait until each node knows all the others."""
        for port in self.nodes:
            self.launch(port)
        primaries, replicas = self.nodes[:SHARDS], self.nodes[SHARDS:]
        for number, port in enumerate(primaries):
            first, last = (SLOTS * n // SHARDS for n in (number, number + 1))
            self.on(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            self.on(port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last - 1))
        for port in self.nodes:
            for other in self.nodes:
                if port < other:
                    bus = str(self._buses[other])
                    self.on(port, "CLUSTER", "MEET", "127.0.0.1", str(other), bus)
        wait_until(self._know_each_other, seconds=60, what=lambda: "six nodes")
        for port, primary in zip(replicas, primaries, strict=True):
            self.on(port, "CLUSTER", "REPLICATE", self._id(primary))
        self.wait_until_whole()

    def launch(self, port: int) -> None:
        """Start one of the nodes, and wait until it answers."""
        listen: tuple[str, ...] = ("--port", str(port))
        if self._tls:
            listen = ("--port", "0", "--tls-port", str(port), "--tls-cluster", "yes")
        self.run(
            port, *listen, "--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes",
            "--cluster-port", str(self._buses[port]), "--cluster-node-timeout", "1000",
            "--repl-diskless-sync-delay", "0", *self._options,
        )  # fmt: skip
        self.wait_for(port)

    def wait_until_whole(self) -> None:
        """Wait until the Cluster is whole."""
        wait_until(self.is_whole, seconds=60, what=lambda: "a whole Cluster")

    def is_whole(self) -> bool:
        """Return whether each shard has a replica that follows, and each node serves.

        Also, all nodes name one primary for the queue's slot, which may have been moved before.
        """
        try:
            followed = ("connected_slaves:1" in self._info(port) for port in self.primaries)
            named = {self._named_by(port, self.slot) for port in self.nodes}
            return all(map(self._is_ready, self.nodes)) and all(followed) and len(named) == 1
        except (OSError, RefusedError):
            return False

    def heal(self) -> None:
        """Restart killed and resume frozen nodes, and wait until the Cluster is whole."""
        for port, process in list(self._processes.items()):
            process.send_signal(signal.SIGCONT)
            if process.poll() is not None:
                self.launch(port)
        self.wait_until_whole()

    def wait_for_promotion(self, old: int, *, seconds: float = 60) -> float:
        """Wait until another node serves the queue's slot; return the monotonic time."""
        others = [port for port in self.nodes if port != old]
        wait_until(
            lambda: any(self._serves(port) for port in others),
            seconds=seconds,
            what=lambda: f"a primary that is not {old}",
        )
        return time.monotonic()

    def fail_over(self, *options: str) -> None:
        """Promote the replica of the queue's shard."""
        self.on(self.replicas[0], "CLUSTER", "FAILOVER", *options)

    def begin_move(self, source: int, target: int) -> None:
        """Begin to move the queue's slot."""
        slot = str(self.slot)
        self.on(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        self.on(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def move_keys(self, source: int, target: int, *, most: int | None = None, by: int = 1) -> int:
        """Move keys of the queue's slot, ``by`` at a time; return their number."""
        moved = 0
        while most is None or moved < most:
            keys = self.on(source, "CLUSTER", "GETKEYSINSLOT", str(self.slot), str(by))
            if not isinstance(keys, list) or not keys:
                break
            self.on(
                source, "MIGRATE", "127.0.0.1", str(target), "", "0", "5000",
                "KEYS", *map(str, keys),
            )  # fmt: skip
            moved += len(keys)
        return moved

    def end_move(self, target: int) -> None:
        """Assign the queue's slot to a primary, and tell all other primaries."""
        others = [port for port in self.primaries if port != target]
        for port in (target, *others):
            self.on(port, "CLUSTER", "SETSLOT", str(self.slot), "NODE", self._id(target))

    @contextmanager
    def moving(self, target: int) -> Iterator[None]:
        """Move the queue's slot to another primary, key by key; the block runs during the move."""
        source = self.primary
        self.begin_move(source, target)
        self.move_keys(source, target, most=5)
        try:
            yield
        finally:
            self.move_keys(source, target)
            self.end_move(target)

    def _named_by(self, port: int, slot: int) -> int:
        """Return the port of the primary that a node names for a slot, or 0."""
        ranges = self.on(port, "CLUSTER", "SLOTS")
        assert isinstance(ranges, list)
        found: list[Any] = ranges
        owners = (owner for first, last, (_, owner, *_), *_ in found if first <= slot <= last)
        return next(owners, 0)

    def _serves(self, port: int) -> bool:
        try:
            return self.on(port, "EXISTS", PREFIX) == 0
        except (OSError, RefusedError):
            return False

    def _about(self, port: int) -> str:
        try:
            return str(self.on(port, "CLUSTER", "NODES"))
        except (OSError, RefusedError):
            return ""

    def _info(self, port: int) -> str:
        return str(self.on(port, "INFO", "replication"))

    def _id(self, port: int) -> str:
        return str(self.on(port, "CLUSTER", "MYID"))

    def _know_each_other(self) -> bool:
        return all(
            len(self._about(port).splitlines()) == 2 * SHARDS
            and "handshake" not in self._about(port)
            for port in self.nodes
        )

    def _is_ready(self, port: int) -> bool:
        info = self._info(port)
        follows = "role:master" in info or "master_link_status:up" in info
        nodes = self._about(port)
        is_whole = "fail" not in nodes and nodes.count(" slave ") + nodes.count(",slave ") == SHARDS
        return follows and is_whole and "cluster_state:ok" in str(self.on(port, "CLUSTER", "INFO"))
