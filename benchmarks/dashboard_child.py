"""One process of dashboard.py, which fills a queue and then asks for each page.

With the word ``letters`` and a number, it fills a store with so many dead letters, and asks for the
pages that show them; a URL of MongoDB after that makes MongoDB the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

ENDED, DEAD, ROUNDS = 100_000, 10_000, 10
TRACEBACK = "Traceback (most recent call last):\n" + 20 * (99 * "x" + "\n")
COMMANDS = {
    "cli_health": "worker-health",
    "cli_list": "tasks list",
    "cli_failed": "tasks list --state failed --task task_3",
    "cli_show": f"tasks show {ENDED - 7:032x}",
    "cli_why": f"tasks why {ENDED - 7:032x}",
    "cli_stats": "tasks stats",
    "cli_dead": "dead-letters list",
    "cli_letter": "dead-letters show {}",
    "cli_help": "tasks --help",
    "cli_bare_help": "--help",
}
LETTER_COMMANDS = {
    "letters_cli_list": "dead-letters list",
    "letters_cli_task": "dead-letters list --task task_7",
    "letters_cli_all": "dead-letters list --all",
    "letters_cli_since": "dead-letters list --since 1h",
    "letters_cli_count": "dead-letters count --cause exception",
    "letters_cli_show": "dead-letters show {:.8}",
    "letters_cli_stats": "tasks stats",
    "letters_cli_health": "worker-health",
    "letters_cli_doctor": "doctor",
}
os.environ |= {
    "REDIS_URL": sys.argv[1],
    "REDIS_KEY_PREFIX": f"pages-{uuid4().hex[:8]}",
    "SECRET_KEY": "for benchmarks only" * 2,
    "ENVIRONMENT": "development",
    "DEBUG": "true",
}


if len(sys.argv) > 4:
    os.environ["MONGODB_URL"] = sys.argv[4]


async def main() -> None:
    """Fill, measure, print one JSON object."""
    print(json.dumps(await (time_all() if len(sys.argv) == 2 else time_letters())))


async def time_all() -> dict[str, float]:
    """Time the pages and commands of a queue with many tasks and some letters."""
    from vibetuner.frontend.app import create_app
    from vibetuner.tasks.inspect.queue import this_queue
    from vibetuner.tasks.worker import get_worker

    worker = get_worker()
    worker.burst = True
    await worker.run_async()  # creates the queue that streaq's page reads
    app = create_app()
    async with app.router.lifespan_context(app):
        queue = this_queue()
        before = await used_memory(queue)
        times = {"write": await fill(queue)}
        times["memory"] = (await used_memory(queue) - before) / 1e6
        await fill_results(queue)
        await bury(queue)
        times |= await time_pages(app)
        times |= await time_streaqs_pages(worker)
        return times | await time_commands(queue, COMMANDS)


async def time_letters() -> dict[str, float]:
    """Time the pages and commands of a store with very many letters."""
    from vibetuner.frontend.app import create_app
    from vibetuner.tasks.dead_letters import discard
    from vibetuner.tasks.inspect.queue import this_queue

    app, number = create_app(), int(sys.argv[3])
    async with app.router.lifespan_context(app):
        queue = this_queue()
        before, began = await used_memory(queue), time.perf_counter()
        await bury(queue, number)
        times = {"letters_fill": (time.perf_counter() - began) / number * 1e6}
        times["letters_memory"] = (await used_memory(queue) - before) / 1e6
        for at in range(1, 60):
            await discard(letter_id(number - at))
        async with browsing(app) as get:
            for name, path in letter_pages(number).items():
                times[name] = await timed(lambda path=path: get(path), told=name)
        return times | await time_commands(queue, LETTER_COMMANDS)


def letter_pages(number: int) -> dict[str, str]:
    """Return the pages that show letters, or their number."""
    middle = f"{letter_id(number // 2)}"
    return {
        "letters_overview": "",
        "letters_dead": "/dead",
        "letters_bug": "/dead?fingerprint=f7",
        "letters_letter": f"/task/{middle}",
        "letters_begins": f"/task/{middle[:12]}",
        "letters_confirm": "/dead/confirm?verb=retry&fingerprint=f7",
        "letters_confirm_all": "/dead/confirm?verb=discard",
        "letters_list": "/list?state=failed",
    }


@asynccontextmanager
async def browsing(app: Any) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Yield a function that fetches a whole page of ours."""
    from httpx2 import ASGITransport, AsyncClient

    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:

        async def get(path: str) -> str:
            answer = await client.get(f"/debug/tasks{path}")
            assert answer.status_code == 200, answer.text
            return answer.text

        yield get


async def time_pages(app: Any) -> dict[str, float]:
    """Time each page of ours."""
    async with browsing(app) as get:
        deep = ""
        for _ in range(10):
            found = (await get(f"/list?state=done&{deep}")).split('id="next" href="')
            deep = found[1].split('"')[0].replace("&amp;", "&").split("after=")[1]
            deep = f"after={deep}"
        pages = {
            "overview": "",
            "list": "/list",
            "list_deep": f"/list?state=done&{deep}",
            "failed": "/list?state=failed&name=task_3",
            "task": f"/task/{task_id(ENDED - 7)}",
            "cron": "/cron",
            "dead": "/dead",
            "dead_bug": "/dead?fingerprint=f7",
            "dead_letter": f"/task/{letter_id(77)}",
            "dead_confirm": "/dead/confirm?verb=retry&fingerprint=f7",
        }
        return {
            name: await timed(lambda path=path: get(path), told=name)
            for name, path in pages.items()
        }


async def time_streaqs_pages(worker: Any) -> dict[str, float]:
    """Time streaq's own pages; its list shows a hundred tasks of each state."""
    from fastapi import FastAPI
    from httpx2 import ASGITransport, AsyncClient
    from streaq.ui import get_worker, router

    app = FastAPI()
    app.dependency_overrides[get_worker] = lambda: worker
    app.include_router(router)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:

        async def get(path: str) -> None:
            answer = await client.get(path)
            assert answer.status_code == 200, answer.text

        pages = {
            "overview": "/workers", "list": "/queue", "task": f"/task/{task_id(ENDED - 7)}",
            "cron": "/cron",
        }  # fmt: skip
        return {
            f"streaq_{name}": await timed(lambda path=path: get(path), rounds=3)
            for name, path in pages.items()
        }


async def time_commands(queue: Any, commands: Mapping[str, str]) -> dict[str, float]:
    """Time each command, from the start of its process to its end.

    Each begins beside a fresh heartbeat: `worker-health` fails once the last one is old.
    """
    times = {}
    for name, command in commands.items():
        await say_alive(queue)
        times[name] = await asyncio.to_thread(time_command, command.format(letter_id(77)))
    return times


def time_command(command: str) -> float:
    """Return the milliseconds of the quickest of three runs."""
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        arguments = [sys.executable, "-m", "vibetuner", *command.split()]
        subprocess.run(arguments, check=command != "doctor", stdout=subprocess.DEVNULL)
        spent.append((time.perf_counter() - began) * 1000)
    return min(spent)


def task_id(number: int) -> str:
    """Return an id that is as long as a real one."""
    return f"{number:032x}"


async def fill(queue: Any) -> float:
    """Write 100,000 ends of ten names, 1 % of them failed; return milliseconds a batch."""
    from vibetuner.tasks.attempt import Attempt, End
    from vibetuner.tasks.observers import Observers
    from vibetuner.tasks.observers.journal import JournalObserver
    from vibetuner.tasks.payload import Kind
    from vibetuner.tasks.run.finisher import Finisher
    from vibetuner.tasks.run.outage import Outage

    worker, spent = queue.worker, []
    client = worker.client
    journal = JournalObserver(client.functions, worker, client.keys.journal)
    finisher = Finisher(
        client, worker_id="w1", idle_ms=60_000,
        observers=Observers([journal]), counters=worker.counters, outage=Outage(),
    )  # fmt: skip
    call = await worker.serialize({"f": "task_1", "a": ("abc", 7), "k": {}, "t": 1})
    for start in range(0, ENDED, 100):
        now = time.time_ns() // 1_000_000
        for n in range(start, start + 100):
            payload = client.codec.seal(call, Kind.CALL, task_id(n))
            one = Attempt(task_id(n), "normal", queued=now, payload=payload)
            one.name_task(f"task_{n % 10}", None)
            one.created = one.started = one.finished = now
            one.end = End.FAILED if n % 100 == 3 else End.DONE
            one.error = ValueError("no") if one.end is End.FAILED else None
            finisher.add(one)
        began = time.perf_counter()
        await finisher.settled()
        spent.append((time.perf_counter() - began) * 1000)
    await journal.write(())
    return median(spent)


async def say_alive(queue: Any) -> None:
    """Write a worker's heartbeat in its place."""
    from vibetuner.tasks.observers.journal import JournalObserver

    client = queue.worker.client
    journal = JournalObserver(client.functions, queue.worker, client.keys.journal)
    await journal.write((), with_beat=True)


async def fill_results(queue: Any) -> None:
    """Write streaq's own results of the same tasks."""
    from vibetuner.tasks.payload import Kind

    worker = queue.worker
    now = time.time_ns() // 1_000_000
    ended = await worker.serialize(
        {"f": "task_1", "ct": now, "et": now, "s": True, "r": None, "st": now, "ft": now, "t": 1,
         "w": "w1"}
    )  # fmt: skip
    key = worker.prefix + ":index:results"
    for start in range(0, ENDED, 1000):
        async with worker.redis.pipeline(transaction=False) as pipe:
            for n in range(start, start + 1000):
                raw = worker.client.codec.seal(ended, Kind.RESULT, task_id(n))
                pipe.set(worker.results_key + task_id(n), raw, ex=3600)
            pipe.zadd(key, {task_id(n): now + 3_600_000 for n in range(start, start + 1000)})


async def bury(queue: Any, number: int = DEAD) -> None:
    """Store dead letters of fifty bugs in the stream, as a worker does."""
    sys.path.append(str(Path(__file__).parent.parent))
    from tests.runtime.tasks.letters.conftest import ending
    from vibetuner.redis.keys import Keys
    from vibetuner.resources.slots import mongo_database
    from vibetuner.tasks.dead_letters import Cause, DeadLetter
    from vibetuner.tasks.letters.mongo import MongoStore

    now, keys = datetime.now(UTC), Keys(queue.keys.prefix)
    letter = DeadLetter(
        task_name="task_3", task_id="", error="no", error_type="ValueError", tries=3, failed_at=now,
        cause=Cause.EXCEPTION, args=["abc", 7], kwargs={}, traceback=TRACEBACK,
        worker_id="w1", queue="q", enqueued_at=now, fingerprint="", payload=b"x" * 150,
    )  # fmt: skip
    for start in range(0, number, 500):
        letters = [
            replace(
                letter, task_id=letter_id(n), task_name=f"task_{n % 50}",
                fingerprint=f"f{n % 50}", failed_at=datetime.now(UTC),
            )
            for n in range(start, min(number, start + 500))
        ]  # fmt: skip
        functions = queue.worker.client.functions
        await functions.call("finish", *ending(keys, *letters))
        if os.environ.get("MONGODB_URL"):
            await MongoStore(queue.redis, queue.keys.prefix, mongo_database.get()).move()
    if os.environ.get("MONGODB_URL"):
        await MongoStore(queue.redis, queue.keys.prefix, mongo_database.get()).count_groups()


def letter_id(number: int) -> str:
    """Return an id that is as long as a real one, and as different from others."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


async def timed(
    look: Callable[[], Awaitable[object]], rounds: int = ROUNDS, told: str = ""
) -> float:
    """Return the median milliseconds of some rounds; print it at once under the name ``told``."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        await look()
        spent.append((time.perf_counter() - began) * 1000)
    if told:
        print(f"{told}: {median(spent):.0f} ms", file=sys.stderr, flush=True)
    return median(spent)


async def used_memory(queue: Any) -> float:
    """Return the bytes of memory that Redis uses."""
    return float((await queue.redis.info("memory"))["used_memory"])


asyncio.run(main())
