"""`vibetuner doctor` where services are slow, or refuse what a worker needs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import run_vibetuner
from tests.projects import write_shop
from tests.valkey import Valkey
from vibetuner.cli.checks.fast_path import check_fast_path
from vibetuner.config import Settings
from vibetuner.redis.blocking import Reply, ask
from vibetuner.redis.client import make_client
from vibetuner.redis.url import parse_url

pytestmark = pytest.mark.slow

# All that the engine itself calls.
ENGINES_FUNCTIONS = (
    "+fcall|create_groups +fcall|fail_dependents +fcall|publish_delayed_tasks "
    "+fcall|publish_task +fcall|read_streams +fcall|update_dependents "
    "+fcall|refresh_timeout +fcall|schedule_cron_job"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as valkey:
        yield valkey


def test_frozen_services_keep_the_doctor_no_longer_than_one_of_them(tmp_path: Path, server: Valkey):
    """Each is named, and so is all that is well; the exit code says that something is not."""
    shop = write_shop(tmp_path / "shop")
    with mongo(tmp_path / "documents") as (url, process), server.frozen():
        process.send_signal(signal.SIGSTOP)
        done = run_vibetuner(
            "doctor", "--json", folder=shop, seconds=60, REDIS_URL=server.url, MONGODB_URL=url
        )
        process.send_signal(signal.SIGCONT)
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 1
    silent = {one["area"] for one in findings if "no answer within 3 s" in one["text"]}
    assert silent == {"Redis", "MongoDB"}
    assert any(one["area"] == "project" and one["level"] == "ok" for one in findings)


@pytest.mark.parametrize(
    ("rules", "level", "cure"),
    [
        ("", None, ""),
        ("-script", None, ""),
        (
            f"-fcall -evalsha {ENGINES_FUNCTIONS}",
            "warning",
            "ACL SETUSER tester +fcall   (or +evalsha)",
        ),
        (f"-fcall -script {ENGINES_FUNCTIONS}", "warning", "(or +script|load)"),
        ("-function -script", "error", "ACL SETUSER tester +function|load"),
        ("-fcall", "error", "ACL SETUSER tester +fcall"),
    ],
)
async def test_a_server_that_closes_the_fast_path_is_told_of_with_the_right_that_is_missing(
    server: Valkey, rules: str, level: str | None, cure: str
):
    """Without leaving anything on the server."""
    user = ["ACL", "SETUSER", "tester", "on", ">x", "~*", "&*", "+@all", *rules.split()]
    ask(parse_url(server.url), user)
    before = loaded(server)
    url = server.url.replace("://", "://tester:x@")
    async with make_client(Settings(redis_url=url)) as client:
        findings = await check_fast_path(client.connection_pool.address)
    assert [one.level for one in findings] == ([level] if level else [])
    assert cure in "".join(one.cure for one in findings)
    assert loaded(server) == before


def test_the_doctor_tells_what_a_closed_path_costs_and_a_worker_of_no_function_at_all(
    tmp_path: Path, server: Valkey
):
    """The one is a warning; the other is an error, as nothing can be enqueued."""
    shop = write_shop(tmp_path / "shop")
    rules = ["on", ">x", "~*", "&*", "+@all"]
    slow = ["-fcall", "-evalsha", *ENGINES_FUNCTIONS.split()]
    ask(parse_url(server.url), ["ACL", "SETUSER", "slow", *rules, *slow])
    ask(parse_url(server.url), ["ACL", "SETUSER", "none", *rules, "-function"])
    for user, code, words in (
        ("slow", 0, "about a sixth of the rate"),
        ("none", 1, "refuses functions, without which no task can be enqueued"),
    ):
        url = server.url.replace("://", f"://{user}:x@")
        done = run_vibetuner("doctor", folder=shop, seconds=60, REDIS_URL=url)
        assert words in done.stdout
        assert done.returncode == code
        enqueued = run_vibetuner(
            "tasks", "enqueue", "add", "--args", "[1, 2]", folder=shop, seconds=60, REDIS_URL=url
        )
        assert enqueued.returncode == code, enqueued.stderr


def loaded(server: Valkey) -> list[Reply]:
    """The functions and the number of scripts that a server keeps."""
    info, functions = ask(parse_url(server.url), ["INFO", "memory"], ["FUNCTION", "LIST"])
    scripts = [line for line in str(info).splitlines() if line.startswith("number_of_cached")]
    return [*scripts, functions]


@contextmanager
def mongo(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of the test's own that speaks MongoDB's protocol."""
    folder.mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        number = listener.fileno()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vibetuner.embedded.mongo",
                folder,
                str(number),
                str(os.getpid()),
            ],
            pass_fds=[number],
        )
        try:
            yield f"mongodb://127.0.0.1:{listener.getsockname()[1]}", process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(30)
