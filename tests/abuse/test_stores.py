"""Redis is overwritten, filled or stopped; a well-behaved client is still served."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coredis import Redis

from tests.abuse.conftest import KEY, SERVED_WITHIN, TOKEN, Shop, WithinLimits
from tests.processes import freeze, run_vibetuner
from tests.runtime.tasks.letters.conftest import make_letter
from tests.waiting import eventually, wait_until
from vibetuner.redis.keys import GROUP, Keys

pytestmark = pytest.mark.slow

KEYS = Keys("shop:")
HOME = "/debug/tasks"
LETTERS, PART, BUGS = 1_000_000, 20_000, 10
SEARCHED = (
    "task_id", "task_name", "cause", "fingerprint", "error", "error_type", "failed_at",
)  # fmt: skip
# KEYS: the letters, the hash from task to entry, the sorted set of tasks. ARGV: the number of the
# first letter, how many to write, the number of bugs; for whole letters, a letter and its fields
# that are searched, each in three parts: up to its id, up to its fingerprint, and the rest.
BURY = """
local letters, now, first, bugs = KEYS[1], redis.call('time')[1] * 1000, ARGV[1], ARGV[3]
local a, b, c, d, e, f = unpack(ARGV, 4)
for start = first, first + ARGV[2] - 1, 500 do
  local places, ids, indexes = { 'hset', KEYS[2] }, { 'zadd', KEYS[3] }, {}
  for bug = 0, bugs - 1 do indexes[bug] = { 'zadd', letters .. ':of:f' .. bug } end
  local ms = now - 1000000 + math.floor(start / 500)
  local prefix, score = string.format('%.0f-', ms), ms * 4096
  for n = 0, 499 do
    local bug, place = n % bugs, prefix .. n
    local index = indexes[bug]
    index[#index + 1], index[#index + 2] = score + n, place
    if a then
      local id = 't' .. start + n
      redis.call('xadd', letters, place,
        'letter', a .. id .. b .. 'f' .. bug .. c, 'about', d .. id .. e .. 'f' .. bug .. f)
      places[2 * n + 3], places[2 * n + 4] = id, place
      ids[2 * n + 3], ids[2 * n + 4] = 0, id
    else
      redis.call('xadd', letters, place, 'letter', '')
    end
  end
  if a then
    redis.call(unpack(places))
    redis.call(unpack(ids))
  end
  for bug = 0, bugs - 1 do redis.call(unpack(indexes[bug])) end
end
"""
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
    """A call copied to other ids, or an attacker's pickle, isn't run but becomes a dead letter.

    A result copied to another id is not believed.
    """
    planted, stream = tmp_path / "planted", KEYS.stream("normal")
    process = shop.worker.command.process

    async def attack() -> None:
        async with Redis.from_url(shop.redis.url) as redis:
            freeze(process.pid)
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
            result = await redis.get(KEYS.result(task_id))
            assert result
            await redis.set(KEYS.result("other"), result)
            answers = [
                httpx2.get(f"{shop.web.url}/orders/{name}", timeout=30)
                for name in (task_id, "other")
            ]
            assert [answer.status_code for answer in answers] == [200, 404]
            assert answers[0].json() == 4

    with within_limits(*shop.parts, log=200_000):  # a letter is two lines
        asyncio.run(attack())
    assert not planted.exists()


def test_garbage_in_every_key_breaks_no_page(
    shop: Shop, within_limits: WithinLimits, operator: httpx2.Client
):
    """With garbage in every key, each page and command answers, and the worker goes on.

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
        for command in ("tasks list", "tasks stats", "dead-letters list", "doctor"):
            done = run_vibetuner(*command.split(), folder=shop.folder, **shop.environment)
            assert done.returncode in {0, 1}, command
            assert "Traceback" not in done.stdout + done.stderr
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


def test_a_ticket_locked_while_redis_was_silent_stays_locked(
    shop: Shop, within_limits: WithinLimits, operator: httpx2.Client
):
    """A ticket that is locked while Redis is frozen is refused at once, and still once it answers.

    Redis then holds the revocation for all processes. A new ticket opens the pages.
    """

    async def revocations() -> int:
        async with Redis.from_url(shop.redis.url) as redis:
            return len(await redis.keys(KEYS.revoked("*")))

    origin = {"Origin": shop.web.url}
    with within_limits(*shop.parts):
        assert operator.get(HOME).status_code == 200
        with shop.redis.frozen():
            assert operator.post("/_lock-debug", headers=origin).status_code == 303
            assert operator.get(HOME).status_code == 404
        wait_until(lambda: asyncio.run(revocations()) == 1, seconds=30)
        assert operator.get(HOME).status_code == 404
        unlocked = operator.post("/_unlock-debug", data={"token": TOKEN}, headers=origin)
        ticket = unlocked.headers["Set-Cookie"].split(";")[0]
        assert operator.get(HOME, headers={"Cookie": ticket}).status_code == 200


def test_a_million_letters_use_no_memory_and_block_no_page(
    shop: Shop, within_limits: WithinLimits, operator: httpx2.Client
):
    """With 1,000,000 dead letters, each page about them takes web process and Redis 500 ms at most.

    These are seconds of processors, as other programs may load the cores of the tests.
    """
    pages = ("", "/dead", "/dead?fingerprint=f3", "/dead/confirm?verb=retry")
    seconds = {}
    with within_limits(shop.web, shop.worker):
        asyncio.run(bury(shop.redis.url, LETTERS))
        for path in pages:
            before = [part.processor_seconds for part in (shop.web, shop.server)]
            assert operator.get(f"{HOME}{path}").status_code == 200
            after = [part.processor_seconds for part in (shop.web, shop.server)]
            seconds[path] = sum(after) - sum(before)
        assert f"{LETTERS} open" in operator.get(f"{HOME}/dead").text

    print({path: round(took, 2) for path, took in seconds.items()})
    assert max(seconds.values()) < SERVED_WITHIN


async def bury(url: str, number: int) -> None:
    """Write letters of ten bugs as the ends of tasks would, which takes too long for so many.

    Only the newest, which pages show, are whole; of the others, the entries are empty.
    """
    letter = json.loads(make_letter("ID", fingerprint="BUG").to_json())
    about = {name: letter[name] for name in SEARCHED}
    group = {
        "first": letter["failed_at"], "last": letter["failed_at"], "task": letter["task_name"],
        "cause": letter["cause"], "error": "ValueError: no address", "count": number // BUGS,
    }  # fmt: skip
    keys = [KEYS.letters, KEYS.letter_places, KEYS.letter_ids]
    parts = [part for text in (letter, about) for part in re.split("ID|BUG", json.dumps(text))]
    async with Redis.from_url(url) as redis:
        await redis.config_set({"appendonly": "no"})
        for start in range(0, number, PART):
            whole = parts if start + PART == number else []
            await redis.eval(BURY, keys, [start, PART, BUGS, *whole])
        for bug in range(BUGS):
            group["fingerprint"] = f"f{bug}"
            await redis.hset(KEYS.letter_groups, {f"f{bug}": json.dumps(group)})


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
        broken = httpx2.get(f"{shop.web.url}/broken", timeout=30)
        shop.web.command.wait_for("ConnectionError", seconds=30)

    assert all("ConnectionError" in text for text in shown)
    assert broken.status_code == 500
    assert "ConnectionError" not in broken.text
    shown += [part.command.output for part in shop.parts]
    assert not [text for text in shown if "hunter2" in text]


def test_settings_that_help_an_attacker_start_nothing(shop: Shop, within_limits: WithinLimits):
    """`run prod` ends with one line about a guessable key or token, or about DEBUG.

    The processes that run go on.
    """
    weak = [("SECRET_KEY", key) for key in ("x", "   ", "changeme")]
    weak += [("DEBUG", "true"), ("DEBUG_ACCESS_TOKEN", "letmein")]
    started = {}
    with within_limits(*shop.parts):
        for name, value in weak:
            environment = {**shop.environment, "DEBUG_ACCESS_TOKEN": TOKEN, name: value}
            started[name, value] = run_vibetuner(
                "run", "prod", "frontend", folder=shop.folder, **environment
            )

    for (name, _), done in started.items():
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert name in done.stderr
        assert KEY not in done.stderr
