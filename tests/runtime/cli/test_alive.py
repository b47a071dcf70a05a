"""`vibetuner worker-health` where no worker is healthy."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.processes import run_vibetuner
from vibetuner.project import key_prefix
from vibetuner.redis.blocking import ask
from vibetuner.redis.keys import JournalKeys
from vibetuner.redis.url import parse_url


@pytest.mark.parametrize("beat", ["{", "[1]", '{"id": 5, "host": "here"}', "[" * 100_000])
def test_a_heartbeat_that_cannot_be_read_is_no_workers(
    shop: Path, environment: dict[str, str], beat: str
):
    """`worker-health` ignores a heartbeat that it can't read, and finds the one beside it."""
    url = environment["REDIS_URL"]
    keys = JournalKeys(key_prefix(environment["REDIS_KEY_PREFIX"], url))
    beats = {"torn": beat, "whole": '{"id": "whole", "host": "here"}'}
    # They are dated ahead, so that they are not old when the command has started.
    address, at = parse_url(url), str(int(time.time() + 600) * 1000)
    for name, text in beats.items():
        ask(address, ["ZADD", keys.workers, at, name], ["SET", keys.worker(name), text])
    done = run_vibetuner("worker-health", folder=shop, **environment)
    assert (done.returncode, done.stdout) == (0, "healthy: whole\n"), done.stderr


def test_a_variable_in_env_is_replaced_as_in_a_worker(shop: Path, environment: dict[str, str]):
    """`worker-health` asks the server whose URL in `.env` names another variable."""
    address = parse_url(environment["REDIS_URL"])
    lines = f"PORT={address.port}\nREDIS_URL=redis://127.0.0.1:${{PORT}}\n"
    (shop / ".env").write_text(lines, encoding="utf-8")
    done = run_vibetuner("worker-health", folder=shop)
    assert done.stderr.startswith("error: No live worker of the queue corner-shop. "), done.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "",
            "error: Background tasks: Redis not configured. Add to .env:  REDIS_URL=redis://localhost:6379",
        ),
        ("embedded", "error: The embedded Redis is not running, so no worker is. Start one:  "),
    ],
)
def test_without_a_redis_there_is_no_worker(shop: Path, url: str, words: str):
    """Without a Redis, `worker-health` fails with one line that names the cure."""
    done = run_vibetuner("worker-health", folder=shop, REDIS_URL=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(words)
    assert done.stderr.count("\n") == 1
