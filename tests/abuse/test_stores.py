"""Redis is overwritten, filled or stopped; a well-behaved client is still served."""

from __future__ import annotations

import asyncio
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coredis import Redis

from tests.abuse.conftest import KEY, TOKEN, Shop, WithinLimits
from tests.processes import run_vibetuner
from tests.runtime.tasks.letters.conftest import ending, make_letter
from tests.waiting import eventually, wait_until
from vibetuner.redis.connection import Connection
from vibetuner.redis.functions import Functions
from vibetuner.redis.keys import GROUP, Keys
from vibetuner.redis.url import parse_url

pytestmark = pytest.mark.slow

KEYS = Keys("shop:")
HOME = "/debug/tasks"
LETTERS = 20_000
LOOK_AFTER = 4000
GARBAGE = (b'{"failed_at": 5}', b"\xff\x00", b"[" * 5_000, b"9" * 400)


class Planted:
    """Creates a file when a pickle of it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


async def has_letters(redis: Redis[Any], number: int) -> bool:
    return await redis.xlen(KEYS.letters) == number


@pytest.fixture
def operator(shop: Shop) -> Iterator[httpx2.Client]:
    """Yield a client with a ticket for the dashboard."""
    address = f"{shop.web.url}/_unlock-debug"
    unlocked = httpx2.post(address, data={"token": TOKEN}, headers={"Origin": shop.web.url})
    ticket = unlocked.headers["Set-Cookie"].split(";")[0]
    headers = {"Cookie": ticket}
    with httpx2.Client(base_url=shop.web.url, headers=headers, timeout=30) as client:
        yield client


def test_only_calls_signed_for_their_place_are_run(
    shop: Shop, within_limits: WithinLimits, tmp_path: Path
):
    """A call copied to other ids, or an attacker's pickle, isn't run but becomes a dead letter."""
    planted, stream = tmp_path / "planted", KEYS.stream("normal")
    process = shop.worker.command.process

    async def attack() -> None:
        async with Redis.from_url(shop.redis.url) as redis:
            process.send_signal(signal.SIGSTOP)
            task_id = httpx2.post(f"{shop.web.url}/orders", timeout=30).json()
            call = await redis.get(KEYS.data(task_id))
            assert call
            names = [f"copy-{n}" for n in range(100)]
            payloads = dict.fromkeys(names, call) | {"own": pickle.dumps(Planted(planted))}
            for name, payload in payloads.items():
                await redis.set(KEYS.data(name), payload)
                await redis.xadd(stream, {"task_id": name})
            process.send_signal(signal.SIGCONT)
            await eventually(lambda: has_letters(redis, 101), seconds=60)
            await eventually(lambda: redis.exists([KEYS.result(task_id)]), seconds=30)
            assert (await redis.xpending(stream, GROUP)).pending == 0

    with within_limits(*shop.parts, log=200_000):  # a letter is two lines
        asyncio.run(attack())
    assert not planted.exists()


def test_garbage_in_every_key_breaks_no_page(
    shop: Shop, within_limits: WithinLimits, operator: httpx2.Client
):
    """With garbage in every key, each page of the dashboard answers, and the worker goes on.

    A task that is enqueued afterwards runs.
    """

    async def attack() -> None:
        async with Redis.from_url(shop.redis.url) as redis:
            for what in GARBAGE:
                for key in [key async for key in redis.scan_iter()]:
                    kind = str(await redis.type(key))
                    if kind == "hash":
                        await redis.hset(key, dict.fromkeys([*await redis.hgetall(key), "x"], what))
                    elif kind == "stream":
                        await redis.xadd(key, {"d": what, "letter": what, "task_id": "x"})
                    elif kind == "zset":
                        await redis.zadd(key, {what: float("inf")})
                    elif kind == "string":
                        await redis.set(key, what)
                for path in ("", "/list", "/list?state=failed", "/cron", "/dead"):
                    assert operator.get(f"{HOME}{path}").status_code == 200, path
                assert operator.get(f"{HOME}/task/x").status_code in {200, 404}

    for name in ("add", "fail"):
        ordered = httpx2.post(f"{shop.web.url}/orders", params={"name": name}, timeout=30)
        assert ordered.status_code == 202
    shop.worker.command.wait_for("fail failed", seconds=30)
    with within_limits(*shop.parts, log=20_000):
        asyncio.run(attack())
        ended = shop.worker.command.output.count("add finished")
        assert httpx2.post(f"{shop.web.url}/orders", timeout=30).status_code == 202
        wait_until(lambda: shop.worker.command.output.count("add finished") > ended, seconds=60)


def test_a_silent_redis_leads_to_a_503_within_the_deadline(shop: Shop, within_limits: WithinLimits):
    """While Redis is frozen, forty requests get 503 in 8 seconds; later, the app serves again."""

    def order(_: int) -> httpx2.Response:
        return client.post("/orders")

    with (
        httpx2.Client(base_url=shop.web.url, timeout=20) as client,
        within_limits(*shop.parts, log=20_000),  # what was accepted is run in the end
    ):
        shop.redis.freeze()
        try:
            with ThreadPoolExecutor(40) as pool:
                answers = list(pool.map(order, range(40)))
            ready = client.get("/health/ready")
        finally:
            shop.redis.thaw()
        wait_until(lambda: order(0).status_code == 202, seconds=30, what=lambda: "an order")

    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.headers["Retry-After"] for answer in answers)
    assert max(answer.elapsed.total_seconds() for answer in answers) < 8
    assert ready.status_code == 503


def test_many_letters_use_no_memory_and_block_no_page(
    shop: Shop, within_limits: WithinLimits, operator: httpx2.Client
):
    """20,000 dead letters arrive within the memory limits, and the pages that show them answer."""

    async def bury(start: int) -> None:
        async with Connection(parse_url(shop.redis.url)) as connection:
            functions = Functions(connection)
            await functions.load()
            for n in range(start, start + LOOK_AFTER, 500):
                letters = [make_letter(f"t{i}", fingerprint=f"f{i % 9}") for i in range(n, n + 500)]
                await functions.call("finish", *ending(KEYS, *letters))

    with within_limits(*shop.parts):
        for start in range(0, LETTERS, LOOK_AFTER):
            asyncio.run(bury(start))
            for path in ("", "/dead", "/dead?fingerprint=f3", "/dead/confirm?verb=retry"):
                assert operator.get(f"{HOME}{path}").status_code == 200
        assert f"{LETTERS} open" in operator.get(f"{HOME}/dead").text


def test_a_password_in_an_error_is_shown_nowhere(
    shop: Shop, within_limits: WithinLimits, operator: httpx2.Client
):
    """A password in an error is masked in logs, pages, commands and stored records."""
    with within_limits(*shop.parts, log=20_000):
        task_id = httpx2.post(f"{shop.web.url}/orders", params={"name": "fail"}, timeout=30).json()
        shop.worker.command.wait_for("fail failed", seconds=30)

        async def stored() -> str:
            async with Redis.from_url(shop.redis.url, decode_responses=True) as redis:
                await eventually(lambda: redis.xlen(KEYS.letters), seconds=30)
                return str(await redis.xrange(KEYS.letters))

        shown = [asyncio.run(stored())]
        for arguments in (("tasks", "show"), ("dead-letters", "show")):
            done = run_vibetuner(*arguments, task_id, folder=shop.folder, **shop.environment)
            shown.append(done.stdout)
        shown += [operator.get(f"{HOME}{path}").text for path in ("/dead", f"/task/{task_id}")]

    assert all("ConnectionError" in text for text in shown)
    shown += [part.command.output for part in shop.parts]
    assert not [text for text in shown if "hunter2" in text]


def test_a_key_that_can_be_guessed_starts_nothing(shop: Shop, within_limits: WithinLimits):
    """`run prod` ends with one line about a guessable SECRET_KEY, and other processes go on."""
    started = []
    with within_limits(*shop.parts):
        for key in ("x", "   ", "changeme"):
            environment = {**shop.environment, "SECRET_KEY": key, "DEBUG_ACCESS_TOKEN": TOKEN}
            started.append(
                run_vibetuner("run", "prod", "frontend", folder=shop.folder, **environment)
            )

    for done in started:
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert "SECRET_KEY" in done.stderr
        assert KEY not in done.stderr
