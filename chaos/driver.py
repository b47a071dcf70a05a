"""Does one run: starts everything, injects faults, waits until the queue is empty, and judges."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from chaos.crew import Crewman
from chaos.deliveries import Web
from chaos.faults import Faults, Topology, plan
from chaos.journal import CHANNEL, JOURNAL, read_notes
from chaos.ledger import Ledger, judge
from chaos.outbox import Database, make_outbox, small_disk
from chaos.processes import Child, beside
from chaos.promises import broken_promises
from chaos.reader import Reader
from chaos.replication import Replication, make_replication
from chaos.servers import Mongo, Postgres, Server, Valkey
from chaos.store import look, wait_until_idle
from chaos.story import tell
from vibetuner.config import Settings

__all__ = ["Run", "run"]

ROOT = Path(__file__).parent.parent
PROJECT = Path(__file__).parent / "project"
SUPERVISED = 2
START_SECONDS = 60
IDLE_SECONDS = 300
LAST_ANSWERS_SECONDS = 120
LAST_EVENTS_SECONDS = 15
PROGRESS_SECONDS = 10

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The options of a run, and a folder of its own."""

    seed: int
    seconds: float
    workers: int
    topology: Topology
    database: Database
    durable: bool
    folder: Path
    say: Say


async def run(wanted: Run) -> Ledger:
    """Do a whole run; leave no process behind, whatever happens."""
    journal = wanted.folder / "journal.jsonl"
    journal.touch()
    os.environ[JOURNAL] = str(journal)
    shutil.copytree(PROJECT, wanted.folder, dirs_exist_ok=True)
    async with _servers(wanted) as (redis, mongo, database, database_url):
        variables = _variables(redis, mongo) | {"ENQUEUE_DURABLE": str(wanted.durable)}
        if database_url:
            variables["DATABASE_URL"] = database_url
        environment = _environment() | variables
        settings = Settings.model_validate(
            {name.lower(): value for name, value in variables.items()}
        )
        await make_outbox(settings)
        async with (
            _crew(wanted, environment) as (workers, supervisor, web),
            beside(_tell_progress(wanted.say, journal)),
            _listening(web.port),
        ):
            faults = Faults(workers, supervisor, web, redis, mongo, database)
            await _live_through(wanted, faults, environment)
            await redis.ready()
            await mongo.ready()
            wanted.say("the faults are over; waiting until the queue is idle")
            took = await wait_until_idle(settings, lambda: _known(journal), IDLE_SECONDS)
            wanted.say(f"idle after {took:.0f} s" if took is not None else "still not idle")
            await _all_heard(journal)
            stored = await look(settings, _known(journal))
    return judge(read_notes(journal), stored, durable=wanted.durable)


async def _live_through(wanted: Run, faults: Faults, environment: dict[str, str]) -> None:
    producer = Child("producer", wanted.folder, environment)
    try:
        producer.start(
            [sys.executable, "-m", "app.producer", f"{wanted.seed} tasks", str(wanted.seconds)]
        )
        await faults.run(plan(wanted.seed, wanted.seconds, wanted.topology, wanted.database))
        async with asyncio.timeout(LAST_ANSWERS_SECONDS):
            if code := await producer.ended():
                raise RuntimeError(f"the producer ended with exit code {code}; see producer.log")
    finally:
        producer.end()


@asynccontextmanager
async def _servers(
    wanted: Run,
) -> AsyncIterator[tuple[Valkey | Replication, Mongo, Server | Path | None, str]]:
    """Start all servers; yield them, with what faults of the database hit, and its URL."""
    environment, folder = _environment(), wanted.folder
    mongo = Mongo("mongodb", folder, environment)
    with ExitStack() as stack:
        stack.callback(mongo.end)
        mongo.launch()
        await mongo.ready()
        redis: Valkey | Replication
        if wanted.topology == "single":
            redis = Valkey("valkey", folder, environment)
            stack.callback(redis.end)
            redis.launch()
        else:
            redis = make_replication(wanted.topology, folder / "servers")
            stack.enter_context(redis.servers)
        await redis.ready()
        database: Server | Path | None = None
        url = ""
        if wanted.database == "postgresql":
            database = postgres = Postgres("postgresql", folder, environment)
            stack.callback(postgres.end)
            postgres.launch()
            await postgres.ready()
            url = postgres.url
        elif wanted.database == "sqlite":
            if stack.enter_context(small_disk(folder / "disk")):
                database = folder / "disk"
            else:
                wanted.say("this user may mount no disk, so that none is filled")
            url = f"sqlite+aiosqlite:///{folder / 'disk' / 'chaos.db'}"
        yield redis, mongo, database, url


@asynccontextmanager
async def _crew(
    wanted: Run, environment: dict[str, str]
) -> AsyncIterator[tuple[list[Crewman], Crewman, Web]]:
    names = [f"worker-{number}" for number in range(1, wanted.workers + 1)]
    workers = [Crewman(name, wanted.folder, environment) for name in names]
    supervisor = Crewman("supervisor", wanted.folder, environment, processes=SUPERVISED)
    web = Web("web", wanted.folder, environment)
    crew = [*workers, supervisor, web]
    keepers = [asyncio.create_task(crewman.serve()) for crewman in crew]
    try:
        async with asyncio.timeout(START_SECONDS):
            await asyncio.gather(*(crewman.ready() for crewman in crew))
        yield workers, supervisor, web
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for crewman in crew:
            crewman.end()


@asynccontextmanager
async def _listening(port: int) -> AsyncIterator[None]:
    """Let a browser listen to the project's events during the block."""
    reader = Reader(port, CHANNEL)
    listening = asyncio.create_task(reader.listen())
    async with asyncio.timeout(START_SECONDS):
        await reader.ready.wait()
    try:
        yield
    finally:
        listening.cancel()


async def _all_heard(journal: Path) -> None:
    """Wait until the browser has heard all events, for a limited time."""
    deadline = time.monotonic() + LAST_EVENTS_SECONDS
    while time.monotonic() < deadline:
        if not any("not heard" in text for text in broken_promises(tell(read_notes(journal)))):
            return
        await asyncio.sleep(0.5)


async def _tell_progress(say: Say, journal: Path) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        what = Counter(entry.get("outcome", entry["what"]) for entry in read_notes(journal))
        say(
            f"{time.monotonic() - began:4.0f} s: {what['accepted']} accepted, "
            f"{what['unknown']} unknown; {what['start']} tries, {what['done']} done, "
            f"{what['raised'] + what['timeout']} failed, {what['cancelled']} cut short, "
            f"{what['suicide']} suicides; {what['fault']} faults, {what['exit']} unasked exits"
        )


def _known(journal: Path) -> set[str]:
    return {entry["id"] for entry in read_notes(journal) if "id" in entry}


def _variables(redis: Valkey | Replication, mongo: Mongo) -> dict[str, str]:
    """Return the project's settings, with times so short that two minutes suffice."""
    return {
        "REDIS_URL": redis.url,
        "MONGODB_URL": mongo.url,
        "REDIS_KEY_PREFIX": redis.prefix,
        "ENVIRONMENT": "production",
        "SECRET_KEY": "a key that the processes share, and nobody else",
        "WORKER_GRACE_PERIOD": "3",
        "WORKER_IDLE_TIMEOUT": "5",
    }


def _environment() -> dict[str, str]:
    """Return this process's environment without its own settings."""
    ours = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPATH": f"src{os.pathsep}{ROOT}"}
