"""Plans faults from a seed, and inflicts them on the processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, get_args

from chaos.journal import note
from chaos.outbox import Database, filled
from chaos.processes import Child, descendants, gone, send
from chaos.replication import Replication
from chaos.servers import Server
from chaos.story import FORCED, Effect
from vibetuner.redis.blocking import RefusedError, ask
from vibetuner.redis.url import Address

__all__ = ["Faults", "PlannedFault", "Topology", "plan"]

Topology = Literal["single", "sentinel", "cluster"]


class Chance(NamedTuple):
    """The weight of a fault, its duration, its effect on tasks, and the topologies that have it."""

    weight: int
    seconds: tuple[float, float]
    effect: Effect
    topologies: tuple[Topology, ...] = get_args(Topology)
    databases: tuple[Database, ...] = get_args(Database)


REPLICATED: tuple[Topology, ...] = ("sentinel", "cluster")
FAULTS = {
    "worker killed": Chance(5, (0, 0), "kill"),
    "worker stopped": Chance(5, (0, 0), "stop"),
    "worker frozen briefly": Chance(3, (0.3, 3), "freeze"),
    "worker frozen long": Chance(3, (6, 12), "freeze"),
    "deploy": Chance(2, (0, 0), "stop"),
    "supervisor stopped": Chance(1, (0, 0), "stop"),
    "supervisor killed": Chance(1, (0, 0), "stop"),
    "valkey killed": Chance(2, (0, 4), "outage", ("single",)),
    "valkey stopped": Chance(2, (0, 4), "outage", ("single",)),
    "connections cut": Chance(2, (0, 0), "outage", ("single",)),
    "web killed": Chance(1, (0, 0), "none"),
    "web stopped": Chance(1, (0, 0), "none"),
    "disk full": Chance(2, (1, 6), "none", databases=("sqlite",)),
    "postgresql killed": Chance(2, (0, 6), "none", databases=("postgresql",)),
    "mongodb killed": Chance(2, (1, 8), "none"),
    "mongodb frozen": Chance(2, (2, 12), "none"),
    "primary killed": Chance(2, (0, 0), "failover", REPLICATED),
    "primary killed with a lag": Chance(2, (0, 0), "failover", REPLICATED),
    "primary frozen": Chance(2, (1, 8), "failover", REPLICATED),
    "replica promoted": Chance(2, (0, 0), "failover", REPLICATED),
    # Both servers take part, so that no write is lost.
    "failover ordered": Chance(2, (0, 0), "outage", REPLICATED),
    "replica killed": Chance(1, (1, 4), "none", REPLICATED),
    "replica frozen": Chance(1, (1, 6), "none", REPLICATED),
    "other primary killed": Chance(1, (0, 0), "none", ("cluster",)),
    # Steps and heartbeats wait during the move.
    "slot moved": Chance(3, (0, 0), "outage", ("cluster",)),
}
FIRST_PAUSE, LAST_PAUSE = 1.0, 4.0

# A stop takes the grace period, plus the time of steps that can't be interrupted.
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault: the pause before it, its target and its duration."""

    number: int
    pause: float
    kind: str
    target: int
    seconds: float
    by: signal.Signals


def plan(
    seed: int, seconds: float, topology: Topology = "single", database: Database = "sqlite"
) -> Iterator[PlannedFault]:
    """Yield the faults of so many seconds; the same for the same seed."""
    chance = Random(f"{seed} faults")  # noqa: S311 - repeatable on purpose
    kinds = [
        kind
        for kind, one in FAULTS.items()
        if topology in one.topologies and database in one.databases
    ]
    weights = [FAULTS[kind].weight for kind in kinds]
    spent, number = 0.0, 0
    while True:
        number += 1
        kind = chance.choices(kinds, weights)[0]
        fault = PlannedFault(
            number,
            round(chance.uniform(FIRST_PAUSE, LAST_PAUSE), 1),
            kind,
            chance.randrange(1000),
            round(chance.uniform(*FAULTS[kind].seconds), 1),
            chance.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGINT]),
        )
        spent += fault.pause
        if spent > seconds:
            return
        yield fault


class Faults:
    """Inflicts the planned faults on the processes of a run.

    ``database`` is a server, the small disk of an SQLite file, or None if it has no faults.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - one process of each kind
        self,
        workers: Sequence[Child],
        supervisor: Child,
        web: Child,
        redis: Server | Replication,
        mongo: Server,
        database: Server | Path | None,
    ) -> None:
        self._workers = workers
        self._web = web
        self._supervisor = supervisor
        self._redis = redis
        self._mongo = mongo
        self._database = database
        self._filling = asyncio.Lock()

    async def run(self, faults: Iterator[PlannedFault]) -> None:
        """Inflict all faults; return when the last one is over and everything runs again."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(fault.pause)
                group.create_task(self._strike(fault))

    async def _strike(self, fault: PlannedFault) -> None:
        match fault.kind:
            case "worker killed" | "worker stopped":
                await self._end(self._choose(fault), fault)
            case "web killed" | "web stopped":
                web = self._web
                await self._end((web, web.pid) if _is_free(web) else None, fault)
            case "worker frozen briefly" | "worker frozen long":
                await self._freeze_worker(fault)
            case "deploy":
                await self._deploy(fault)
            case "supervisor stopped" | "supervisor killed":
                await self._end_supervisor(fault)
            case "valkey killed" | "valkey stopped" | "mongodb killed" | "postgresql killed":
                servers = {"valkey": self._redis, "mongodb": self._mongo}
                server = servers.get(fault.kind.split()[0], self._database)
                assert isinstance(server, Server)  # noqa: S101 - as the plan has it
                await self._restart(server, fault)
            case "connections cut":
                await self._cut_connections(fault)
            case "disk full":
                await self._fill_disk(fault)
            case "mongodb frozen":
                await self._freeze(self._mongo, self._mongo.pid, fault)
            case _:
                await self._strike_replication(fault)

    async def _end(self, chosen: tuple[Child, int] | None, fault: PlannedFault) -> None:
        if chosen is None:
            return
        child, pid = chosen
        async with child.busy:
            if fault.kind.endswith("killed"):
                async with _noted(fault, [pid]):
                    send(pid, signal.SIGKILL)
            else:
                async with _noted(fault, [pid]):
                    child.told_to_end.add(pid)
                    send(pid, fault.by)
                    await _see_off(fault, [pid])

    async def _freeze_worker(self, fault: PlannedFault) -> None:
        if (chosen := self._choose(fault)) is not None:
            await self._freeze(*chosen, fault)

    async def _deploy(self, fault: PlannedFault) -> None:
        """Stop all workers at once, like the rollout of a new version."""
        struck = [child for child in (*self._workers, self._supervisor) if _is_free(child)]
        if not struck:
            return
        async with AsyncExitStack() as stack:
            for child in struck:
                await stack.enter_async_context(child.busy)
            pids = [pid for child in struck for pid in (child.pid, *descendants(child.pid))]
            async with _noted(fault, pids):
                for child in struck:
                    child.told_to_end.add(child.pid)
                    send(child.pid, signal.SIGTERM)
                await _see_off(fault, pids)

    async def _end_supervisor(self, fault: PlannedFault) -> None:
        if not _is_free(self._supervisor):
            return
        async with self._supervisor.busy:
            pid = self._supervisor.pid
            # The supervisor's workers stop in order, even if it is killed.
            pids = [pid, *descendants(pid)]
            async with _noted(fault, pids):
                self._supervisor.told_to_end.add(pid)
                send(pid, signal.SIGKILL if fault.kind == "supervisor killed" else fault.by)
                await _see_off(fault, pids)

    async def _restart(self, server: Server, fault: PlannedFault) -> None:
        if not _is_free(server):
            return
        async with server.busy, _noted(fault, [server.pid]):
            stopped = fault.kind.endswith("stopped")
            for pid in (server.pid, *descendants(server.pid)):
                send(pid, signal.SIGTERM if stopped else signal.SIGKILL)
            await server.ended()
            await asyncio.sleep(fault.seconds)
            server.launch()
            await server.ready()

    async def _fill_disk(self, fault: PlannedFault) -> None:
        disk = self._database
        if isinstance(disk, Path) and not self._filling.locked():
            async with self._filling, _noted(fault, []):
                with filled(disk):
                    await asyncio.sleep(fault.seconds)

    async def _cut_connections(self, fault: PlannedFault) -> None:
        assert isinstance(self._redis, Server)  # noqa: S101 - as above
        if not _is_free(self._redis):
            return
        address = Address(host="127.0.0.1", port=self._redis.port)
        async with self._redis.busy, _noted(fault, [self._redis.pid]):
            for kind in ("normal", "pubsub"):
                with suppress(OSError, RefusedError):
                    await asyncio.to_thread(ask, address, ["CLIENT", "KILL", "TYPE", kind])

    async def _strike_replication(self, fault: PlannedFault) -> None:
        """Inflict one fault at a time: durable tasks survive the loss of only one server."""
        servers = self._redis
        assert isinstance(servers, Replication)  # noqa: S101 - as above
        if servers.busy.locked():
            return
        async with servers.busy, _noted(fault, []):
            await servers.strike(fault.kind, fault.seconds)

    async def _freeze(self, child: Child, pid: int, fault: PlannedFault) -> None:
        if not _is_free(child):
            return
        async with child.busy, _noted(fault, [pid]):
            send(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                send(pid, signal.SIGCONT)

    def _choose(self, fault: PlannedFault) -> tuple[Child, int] | None:
        """Return a process that runs tasks, with its owner, or None while every one has a fault."""
        targets = [(child, child.pid) for child in self._workers if _is_free(child)]
        if _is_free(self._supervisor):
            below = descendants(self._supervisor.pid)
            targets += [(self._supervisor, pid) for pid in below]
        return targets[fault.target % len(targets)] if targets else None


def _is_free(child: Child) -> bool:
    return not child.busy.locked() and child.code is None


@asynccontextmanager
async def _noted(fault: PlannedFault, pids: Sequence[int]) -> AsyncIterator[None]:
    effect = FAULTS[fault.kind].effect
    note("fault", number=fault.number, kind=fault.kind, effect=effect, pids=pids)
    try:
        yield
    finally:
        note("mended", number=fault.number)


async def _see_off(fault: PlannedFault, pids: Sequence[int]) -> None:
    """Wait until all processes have stopped; kill the others, and note that as another fault."""
    if left := await gone(pids, STOP_SECONDS):
        number = -fault.number
        note("fault", number=number, kind=FORCED, effect="kill", pids=sorted(left))
        for pid in left:
            send(pid, signal.SIGKILL)
        note("mended", number=number)
