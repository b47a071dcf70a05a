"""Deliver each webhook several times while web processes are restarted; each event must run once.

``python -m chaos.deliveries --events 20000 --deliveries 100000 --clients 50``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from chaos.crew import Crewman
from chaos.journal import JOURNAL, read_notes
from chaos.processes import beside, run_until_signal, send
from chaos.servers import Valkey
from vibetuner.config import Settings, using_settings
from vibetuner.resources.sql import open_sql
from vibetuner.tasks.outbox.sql import SqlOutbox
from vibetuner.tasks.worker import TaskWorker

__all__ = ["Outcome", "Wanted", "Web", "deliver", "environment_of", "kept"]

ROOT = Path(__file__).parent.parent
SHOP = Path(__file__).parent / "shop"
ROUTES = ("once", "within")
OK = b"HTTP/1.1 202"
ANSWER_SECONDS = 15.0
PAUSE_SECONDS = 0.1
START_SECONDS = 60.0
IDLE_SECONDS = 180.0
APART_SECONDS = 0.2, 2.0
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The options of a run."""

    events: int
    deliveries: int
    clients: int
    webs: int = 2
    seed: int = 1
    database_url: str = ""


@dataclass(slots=True)
class Outcome:
    """The outcome; ``wrong`` lists the events that did not run exactly once."""

    deliveries: int = 0
    repeated: int = 0
    seconds: float = 0.0
    restarts: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    runs: int = 0
    wrong: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Return the outcome as text."""
        times = sorted(self.milliseconds)
        shares = ", ".join(
            f"p{share} {times[min(len(times) - 1, len(times) * share // 100)]:.0f} ms"
            for share in (50, 95, 99)
        )
        restarts = ", ".join(f"{name} {count}" for name, count in sorted(self.restarts.items()))
        lines = [
            f"{self.deliveries} deliveries in {self.seconds:.0f} s, {self.repeated} sent again",
            f"answers {shares}",
            f"web processes {restarts or 'not restarted'}",
            f"{self.runs} runs",
            f"NOT ONCE: {dict(list(self.wrong.items())[:20])}" if self.wrong else "each event once",
        ]
        return "\n".join(lines)


class Web(Crewman):
    """Runs a web process, and starts it again whenever it ends."""

    says = b"web app ready"

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(name, folder, environment)
        self._arguments = ["run", "prod", "frontend", "--port", str(self.port)]

    async def served_again(self) -> None:
        """Return once a process other than this one serves on the port."""
        old = self.pid
        while True:
            if self.pid != old and self.code is None:
                with suppress(OSError):
                    (await asyncio.open_connection("127.0.0.1", self.port))[1].close()
                    return
            await asyncio.sleep(0.05)


async def deliver(wanted: Wanted, folder: Path) -> Outcome:
    """Do a whole run in ``folder``, and leave no process behind."""
    journal = folder / "journal.jsonl"
    journal.touch()
    os.environ[JOURNAL] = str(journal)
    shutil.copytree(SHOP, folder, dirs_exist_ok=True)
    outcome = Outcome()
    async with AsyncExitStack() as stack:
        valkey = Valkey("valkey", folder, environment_of({}))
        stack.callback(valkey.end)
        valkey.launch()
        await valkey.ready()
        variables = {
            "DATABASE_URL": wanted.database_url or f"sqlite+aiosqlite:///{folder / 'shop.db'}",
            "ENVIRONMENT": "production",
            "MONGODB_URL": "",
            "REDIS_KEY_PREFIX": "shop:",
            "REDIS_URL": valkey.url,
            "SECRET_KEY": "a key that these processes share, and nobody else",
        }
        given = {name.lower(): one for name, one in variables.items() if one}
        settings = Settings.model_validate(given)
        environment = environment_of(variables)
        await _make_tables(folder, environment)
        webs = [Web(f"web-{number}", folder, environment) for number in range(wanted.webs)]
        await stack.enter_async_context(kept([*webs, Crewman("worker", folder, environment)]))
        chance = Random(wanted.seed)  # noqa: S311 - repeatable
        async with beside(_restart(webs, chance, outcome), _tell(wanted, outcome)):
            await _deliver_all(wanted, [web.port for web in webs], outcome)
        await _wait_until_idle(settings)
    runs = Counter(str(one["event"]) for one in read_notes(journal) if one["what"] == "acted")
    expected = {f"evt-{number}" for number in range(wanted.events)}
    outcome.runs = runs.total()
    outcome.wrong = {name: runs[name] for name in expected | runs.keys() if runs[name] != 1}
    return outcome


async def _deliver_all(wanted: Wanted, ports: Sequence[int], outcome: Outcome) -> None:
    chance = Random(wanted.seed)  # noqa: S311 - repeatable
    numbers = [number % wanted.events for number in range(wanted.deliveries)]
    chance.shuffle(numbers)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for client in range(wanted.clients):
            group.create_task(_send_all(numbers, ports, Random(client), outcome))  # noqa: S311
    outcome.seconds = time.monotonic() - began


async def _send_all(
    numbers: list[int], ports: Sequence[int], chance: Random, outcome: Outcome
) -> None:
    """Send deliveries; repeat each, to any process, until it is accepted."""
    streams: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
    while numbers:
        number = numbers.pop()
        body = json.dumps({"event": f"evt-{number}"}).encode()
        while True:
            port, is_accepted, began = chance.choice(ports), False, time.monotonic()
            with suppress(OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    if port not in streams:
                        streams[port] = await asyncio.open_connection("127.0.0.1", port)
                    is_accepted = await _post(*streams[port], ROUTES[number % 2], port, body)
            if is_accepted:
                outcome.milliseconds.append((time.monotonic() - began) * 1000)
                outcome.deliveries += 1
                break
            if port in streams:
                streams.pop(port)[1].close()
            outcome.repeated += 1
            await asyncio.sleep(PAUSE_SECONDS)
    for _, writer in streams.values():
        writer.close()


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: str, port: int, body: bytes
) -> bool:
    head = (
        f"POST /{route} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    length = answer.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    await reader.readexactly(int(length or 0))
    return answer.startswith(OK)


@asynccontextmanager
async def kept(crew: Sequence[Crewman]) -> AsyncIterator[None]:
    """Keep all processes running until the end of the block."""
    keepers = [asyncio.create_task(one.serve()) for one in crew]
    try:
        async with asyncio.timeout(START_SECONDS):
            await asyncio.gather(*(one.ready() for one in crew))
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for one in crew:
            one.end()


async def _restart(webs: Sequence[Web], chance: Random, outcome: Outcome) -> None:
    """Kill or stop one web process after another, for ever."""
    while True:
        web = chance.choice(webs)
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        if web.code is None:
            web.told_to_end.add(web.pid)
            send(web.pid, number)
            outcome.restarts["killed" if number == signal.SIGKILL else "stopped"] += 1
            await web.served_again()
        await asyncio.sleep(chance.uniform(*APART_SECONDS))


async def _tell(wanted: Wanted, outcome: Outcome) -> None:
    """Write how far the run is, for ever."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        sys.stderr.write(
            f"{time.monotonic() - began:4.0f} s: {outcome.deliveries} of {wanted.deliveries} "
            f"delivered, {outcome.restarts.total()} restarts\n"
        )
        sys.stderr.flush()


async def _make_tables(folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "webshop.tables"]
    making = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment)
    if code := await making.wait():
        raise RuntimeError(f"the tables were not made: exit code {code}")


async def _wait_until_idle(settings: Settings) -> None:
    """Wait until nothing waits in the outbox or in the queue."""
    with using_settings(settings):
        async with (
            asyncio.timeout(IDLE_SECONDS),
            open_sql(settings),
            TaskWorker(settings) as worker,
        ):
            outbox = SqlOutbox()
            while (await outbox.waiting())[0] or await worker.queue_size():  # noqa: ASYNC110
                await asyncio.sleep(0.1)


def environment_of(variables: Mapping[str, str]) -> dict[str, str]:
    ours = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPATH": f"src{os.pathsep}{ROOT}", **variables}


def main() -> int:
    """Run and print; return 0 if each event ran once."""
    parser = argparse.ArgumentParser(prog="chaos.deliveries", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--deliveries", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database-url", default="", help="by default SQLite in a new folder")
    wanted = Wanted(**vars(parser.parse_args()))
    with TemporaryDirectory(prefix="deliveries-") as folder:
        try:
            outcome = run_until_signal(deliver(wanted, Path(folder)))
        except asyncio.CancelledError:
            return 130
    sys.stdout.write(f"{outcome.text}\n")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
