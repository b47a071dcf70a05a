"""Send random requests to web app and monitor, and write random values into every key of Redis.

``python -m chaos.fuzz --minutes 30 --seed 1`` exits with 0 if it finds no fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from tempfile import TemporaryDirectory

from coredis import Redis
from coredis.exceptions import RedisError

from chaos.crew import Crewman
from chaos.deliveries import Web, environment_of, kept
from chaos.nonsense import PLANTED, request, spoil
from chaos.processes import run_until_signal
from chaos.servers import Valkey

__all__ = ["Found", "Wanted", "fuzz"]

TARGET = Path(__file__).parent / "target"
TOKEN = "a-token-that-the-fuzz-uses-and-nobody-else"  # noqa: S105 - only for these processes
PROGRAM = ("-m", "vibetuner")
ANSWER_SECONDS, HONEST_SECONDS, COMMAND_SECONDS = 20.0, 60.0, 180.0
REQUESTS, SPOILS, AT_ONCE = 300, 40, 8
COMMANDS = (
    "tasks list", "tasks stats", "tasks show x", "tasks why x", "tasks list --state failed",
    "dead-letters list --all", "dead-letters count", "dead-letters list --since 1h", "doctor",
    "worker-health",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The options of a run."""

    seconds: float
    seed: int


@dataclass(slots=True)
class Found:
    """Counts of a run's requests and spoilt keys, and the faults that it found."""

    statuses: Counter[str] = field(default_factory=Counter)
    spoilt: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)
    honest: list[float] = field(default_factory=list)
    log_bytes: int = 0

    def fault(self, kind: str, detail: str) -> None:
        """Record a fault, unless one of its kind is known."""
        if self.faults.setdefault(re.sub(r"0x[0-9a-f]+|\d+", "#", kind), detail) is detail:
            sys.stderr.write(f"fault: {kind}\n{detail}\n")

    @property
    def text(self) -> str:
        """Return the findings as text."""
        lines = [
            f"{self.statuses.total()} requests: {dict(self.statuses.most_common())}",
            f"{self.spoilt.total()} keys spoilt: {dict(self.spoilt.most_common())}",
            f"commands by exit code: {dict(self.commands)}; {self.log_bytes} bytes of log",
            f"{len(self.honest)} honest tasks, the slowest in {max(self.honest, default=0):.1f} s",
            *(f"FAULT {kind}\n{detail}" for kind, detail in self.faults.items()),
        ]
        return "\n".join([*lines, f"{len(self.faults)} faults"])


async def answer(port: int, sent: bytes, seconds: float) -> bytes:
    """Return the first part of the response; nothing if the connection ends without one."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return b""
    try:
        with suppress(ConnectionError):
            writer.write(sent)
            async with asyncio.timeout(seconds):
                return await reader.read(65_536)
        return b""
    finally:
        writer.close()


async def fuzz(wanted: Wanted, folder: Path) -> Found:
    """Do a whole run in ``folder``, and leave no process behind."""
    shutil.copytree(TARGET, folder, dirs_exist_ok=True)
    found, chance = Found(), Random(wanted.seed)  # noqa: S311 - repeatable
    async with AsyncExitStack() as stack:
        valkey = Valkey("valkey", folder, environment_of({}))
        stack.callback(valkey.end)
        valkey.launch()
        await valkey.ready()
        environment = environment_of({
            "DEBUG_ACCESS_TOKEN": TOKEN, "ENVIRONMENT": "production", "REDIS_URL": valkey.url,
            "REDIS_KEY_PREFIX": "target:", "WORKER_IDLE_TIMEOUT": "5",
            "SECRET_KEY": "a key that these processes share, and nobody else",
        })  # fmt: skip
        web, worker = Web("web", folder, environment), Crewman("worker", folder, environment)
        await stack.enter_async_context(kept([web, worker]))
        pids = web.pid, worker.pid
        redis = await stack.enter_async_context(Redis.from_url(valkey.url))
        end, seen = time.monotonic() + wanted.seconds, {"web": 0, "worker": 0}
        while time.monotonic() < end:
            async with asyncio.TaskGroup() as group:
                group.create_task(_round(web.port, worker.port, redis, chance, found))
                command = chance.choice(COMMANDS)
                group.create_task(_run_command(folder, environment, command, found))
            if (web.pid, worker.pid) != pids:
                pids = web.pid, worker.pid
                found.fault("a process has ended by itself", str(found.spoilt))
            for name, start in seen.items():
                seen[name] = _read_log(folder / f"{name}.log", start, found)
            await redis.flushdb()
            await _honest(web.port, found)
        found.log_bytes = sum(seen.values())
    if (folder / PLANTED).exists():
        found.fault("an unsigned payload was run", "")
    return found


async def _round(
    port: int, monitor: int, redis: Redis[bytes], chance: Random, found: Found
) -> None:
    """Enqueue tasks, then spoil keys and send requests at the same time, some to the monitor."""
    head = f"GET /_unlock-debug?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    unlocked = await answer(port, head.encode(), ANSWER_SECONDS)
    cookie = unlocked.partition(b"et-cookie: ")[2].partition(b";")[0].decode()
    ids = [await _order(port, name, found) for name in ("echo", "fail", "alone", "fail")]
    limit = asyncio.Semaphore(AT_ONCE)

    async def ask(to: int, sent: bytes, *, is_whole: bool) -> None:
        async with limit:
            try:
                got = await answer(to, sent, ANSWER_SECONDS if is_whole else 1)
            except TimeoutError:
                got = b"no answer"
                if is_whole:
                    found.fault(f"no answer to {sent[:80]!r}", repr(sent[:3000]))
        status = got[9:12].decode(errors="replace") if got.startswith(b"HTTP/") else got.decode()
        found.statuses[status or "closed"] += 1
        if status in {"500", "502", "504"}:
            found.fault(f"{status} to {sent[:60]!r}", f"{sent[:3000]!r}\n{got[-600:]!r}")

    async def spoil_some() -> None:
        for _ in range(SPOILS):
            try:
                found.spoilt[await spoil(redis, chance)] += 1
            except RedisError as error:  # the key has another type by now
                found.spoilt[type(error).__name__] += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(spoil_some())
        for _ in range(REQUESTS):
            to = chance.choice((port, port, monitor))
            sent, is_whole = request(chance, to, cookie, ids)
            group.create_task(ask(to, sent, is_whole=is_whole))


async def _order(port: int, name: str, found: Found) -> str:
    """Enqueue a task; return its id, or nothing if the server refuses."""
    body = json.dumps({"name": name, "values": [1, "x"]})
    head = (
        "POST /orders HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: "
        f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        got = await answer(port, f"{head}{body}".encode(), ANSWER_SECONDS)
    except TimeoutError:
        found.fault("no answer to an order", "")
        return ""
    return got.partition(b'"id":"')[2].partition(b'"')[0].decode()


async def _honest(port: int, found: Found) -> None:
    """Check that a task is accepted and run, and its result returned, once all keys are deleted."""
    began = time.monotonic()
    while time.monotonic() - began < HONEST_SECONDS:
        if task_id := await _order(port, "echo", found):
            head = f"GET /orders/{task_id} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            if b"\"[1, 'x']\"" in await answer(port, head.encode(), ANSWER_SECONDS):
                found.honest.append(time.monotonic() - began)
                return
        await asyncio.sleep(0.1)
    found.fault("no honest task runs after the nonsense", "")


async def _run_command(
    folder: Path, environment: dict[str, str], command: str, found: Found
) -> None:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, *PROGRAM, *command.split()),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await asyncio.wait_for(running.communicate(), COMMAND_SECONDS)
    except TimeoutError:
        running.kill()
        await running.wait()
        found.fault(f"vibetuner {command}: no end after {COMMAND_SECONDS:g} s", "")
        return
    found.commands[f"{running.returncode}"] += 1
    if b"Traceback" in out or (running.returncode or 0) < 0:
        found.fault(f"vibetuner {command}: {out.splitlines()[-1]!r}", out.decode(errors="replace"))


def _read_log(log: Path, start: int, found: Found) -> int:
    """Record the new tracebacks of a log, except those of planned failures."""
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                record = {
                    "traceback": line.decode(errors="replace")
                }  # output that no logger has written
            trace = str(record.get("traceback") or "").strip()
            if trace and "planned: " not in trace:
                message = f"{record.get('message')}: {trace.splitlines()[-1]}"
                found.fault(f"{log.name}: {message[:200]}", trace)
        return file.tell()


def main() -> int:
    """Run and print; return 0 if there was no fault."""
    parser = argparse.ArgumentParser(prog="chaos.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10_000))
    options = parser.parse_args()
    sys.stderr.write(f"seed {options.seed}, {options.minutes:g} minutes\n")
    with TemporaryDirectory(prefix="fuzz-") as folder:
        wanted = Wanted(seconds=options.minutes * 60, seed=options.seed)
        try:
            found = run_until_signal(fuzz(wanted, Path(folder)))
        except asyncio.CancelledError:
            return 130
    sys.stdout.write(f"{found.text}\n")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
