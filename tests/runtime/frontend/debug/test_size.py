"""The work of Redis for a page doesn't grow with the number of dead letters."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from coredis import Redis
from httpx2 import AsyncClient

from tests.processes import run_vibetuner
from tests.projects import write_project
from tests.runtime.tasks.letters.conftest import ending, make_letter
from tests.valkey import Valkey
from vibetuner.config import Settings, using_settings
from vibetuner.errors import DeadLetterNotFound
from vibetuner.redis.keys import Keys
from vibetuner.tasks.dead_letters import Cause, count, discard, get, list_letters
from vibetuner.tasks.worker import TaskWorker

FEW, MANY, ACTED = 200, 2_000, 30
HOME = "/debug/tasks"
PAGES = (
    "", "/list", "/list?state=failed", "/dead", "/dead?fingerprint=f1", "/task/t50",
    "/dead/confirm?verb=retry", "/dead/confirm?verb=discard&fingerprint=f1",
)  # fmt: skip


async def find_nothing(beginning: str) -> None:
    """Look for a letter by the beginning of an id that no letter has."""
    with pytest.raises(DeadLetterNotFound):
        await get(beginning)


LOOKS: dict[str, Callable[[], Awaitable[object]]] = {
    "a task's letters": lambda: list_letters(task="task_1"),
    "a cause's letters": lambda: list_letters(cause=Cause.TIMEOUT),
    "a bug's letters": lambda: list_letters(fingerprint="f1"),
    "all letters": lambda: list_letters(open_only=False),
    "the number": count,
    "the number with acted ones": lambda: count(open_only=False),
    "a task's number": lambda: count(task="task_1"),
    "a letter": lambda: get("t50"),
    "a letter by the beginning of its id": lambda: find_nothing("abcdef12"),
}

Ask = Callable[[str], Awaitable[object]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """Run a server whose counters include only the commands of this module."""
    with Valkey(tmp_path_factory.mktemp("valkey"), lasting=False) as valkey:
        yield valkey


@pytest.fixture
def settings(settings: Settings, server: Valkey) -> Iterator[Settings]:
    """Use settings of that server, without MongoDB."""
    own = settings.model_copy(update={"mongodb_url": None, "redis_url": server.url})
    with using_settings(own):
        yield own


@pytest.fixture
def ask(client: AsyncClient, settings: Settings, tmp_path: Path) -> Ask:
    """Return a function that opens a page, reads letters or runs a command, by its name."""
    folder = write_project(tmp_path / "shop")
    environment = {
        "REDIS_URL": settings.redis_url or "",
        "REDIS_KEY_PREFIX": settings.redis_key_prefix,
    }

    async def ask(name: str) -> object:
        if name in LOOKS:
            return await LOOKS[name]()
        if name == "worker-health":
            return await asyncio.to_thread(run_vibetuner, name, folder=folder, **environment)
        answer = await client.get(HOME + name)
        assert answer.status_code == 200, answer.text
        return answer

    return ask


async def test_pages_cost_the_same_with_many_letters_as_with_few(
    ask: Ask, worker: TaskWorker, settings: Settings
):
    """Each page costs Redis the same commands and bytes with many letters as with few."""
    asked = [*PAGES, *LOOKS, "worker-health"]
    await bury(worker, settings, 0, FEW)
    for name in asked:
        await ask(name)  # which loads what is loaded once
    few = {name: await cost(worker.redis, ask, name) for name in asked}
    await bury(worker, settings, FEW, MANY)
    many = {name: await cost(worker.redis, ask, name) for name in asked}

    assert {name: calls for name, (calls, _) in many.items()} == {
        name: calls for name, (calls, _) in few.items()
    }
    for name in asked:
        assert many[name][1] < few[name][1] * 1.2 + 500, name


async def bury(worker: TaskWorker, settings: Settings, start: int, end: int) -> None:
    """Store letters of two bugs, and act on the first of each hundred."""
    keys, functions = Keys(settings.redis_key_prefix), worker.client.functions
    letters = [
        make_letter(
            f"t{n}",
            task_name=f"task_{n % 2}",
            fingerprint=f"f{n % 2}",
            cause=Cause.TIMEOUT if n % 2 else Cause.EXCEPTION,
        )
        for n in range(start, end)
    ]
    await functions.call("finish", *ending(keys, *letters))
    for letter in letters:
        if int(letter.task_id[1:]) % 100 < ACTED:
            await discard(letter)


async def cost(redis: Redis[str], ask: Ask, name: str) -> tuple[Counter[str], int]:
    """Return the calls of each command, and the bytes returned, for one request of this name.

    It is the lesser of two measurements, as something else may call the server now and then.
    """
    found = []
    for _ in range(2):
        before = await counters(redis)
        await ask(name)
        after = await counters(redis)
        found.append((after[0] - before[0], after[1] - before[1]))
    (calls, sent), (others, more) = found
    return calls & others, min(sent, more)


async def counters(redis: Redis[str]) -> tuple[Counter[str], int]:
    stats, sent = await redis.info("commandstats"), await redis.info("stats")
    calls = {
        name.removeprefix("cmdstat_"): values["calls"]
        for name, values in stats.items()
        if name not in {"cmdstat_info", "cmdstat_ping"}
    }
    return Counter(calls), int(sent["total_net_output_bytes"])
