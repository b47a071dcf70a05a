"""`vibetuner tasks`, `doctor` and `worker-health`, typed in a small project."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.processes import free_port, run_vibetuner, vibetuner
from tests.projects import SHOP, SHOP_TUNE, write, write_project, write_shop
from vibetuner.cli.checks.redis import judge_server
from vibetuner.cli.redis_wire import RefusedError, ask
from vibetuner.embedded import Lease

Typed = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(servers: Lease) -> dict[str, str]:
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"test-{uuid4().hex[:8]}",
        "SECRET_KEY": "Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
        "ENVIRONMENT": "test",
    }


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path / "shop")


@pytest.fixture
def typed(shop: Path, environment: dict[str, str]) -> Typed:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run_vibetuner(*arguments, folder=shop, seconds=180, **{**environment, **variables})

    return run


def test_without_a_worker_a_task_is_enqueued_explained_and_marked(typed: Typed):
    """Each command says the next one; wrong input is one line."""
    empty = typed("tasks", "list", "--json")
    assert (empty.returncode, json.loads(empty.stdout)) == (3, {"tasks": [], "next": None})

    enqueued = typed("tasks", "enqueue", "add", "--args", "[1, 2]", "--json")
    task_id = json.loads(enqueued.stdout)["id"]
    why = typed("tasks", "why", task_id)
    assert why.returncode == 0
    assert "No worker is running" in why.stdout
    assert "vibetuner run prod worker" in why.stdout
    shown = json.loads(typed("tasks", "show", task_id, "--json").stdout)
    assert (shown["state"], shown["arguments"]) == ("queued", {"a": "1", "b": "2"})
    assert "is marked" in typed("tasks", "abort", task_id).stdout
    assert json.loads(typed("tasks", "stats", "--json").stdout)["queued"] == 1

    for arguments, code, words in (
        (("show", "nobody"), 3, "There is no task nobody"),
        (("why", "nobody"), 3, "There is no task nobody"),
        (("abort", "nobody"), 3, "There is no task nobody"),
        (("enqueue", "ad"), 1, "Did you mean add?"),
        (("enqueue", "add", "--args", "1"), 1, "--args takes JSON such as"),
        (("enqueue", "add", "--args", "[1"), 1, "--args takes JSON such as"),
        (("enqueue", "add", "--kwargs", '{"a": 1}'), 1, "missing a required argument: 'b'"),
        (("list", "--state", "dine"), 1, "--state takes one of"),
        (("list", "--since", "soon"), 1, "--since takes 30m"),
    ):
        refused = typed("tasks", *arguments)
        assert refused.returncode == code, (arguments, refused.stderr)
        assert refused.stderr.startswith("error: ")
        assert words in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_beside_a_worker_health_and_doctor_see_it(
    typed: Typed, shop: Path, environment: dict[str, str], tmp_path: Path
):
    """Alive here; other code as soon as the code changes; gone as soon as it stops."""
    sick = typed("worker-health")
    assert sick.returncode == 1
    assert "error: No live worker of the queue" in sick.stderr
    with vibetuner(
        *("run", "prod", "worker", "--port", str(free_port())),
        folder=shop,
        log=tmp_path / "log",
        environment=environment,
    ) as command:
        command.wait_for("worker ready", seconds=60)
        well = typed("worker-health", "--here", "--json")
        assert (well.returncode, json.loads(well.stdout)["healthy"]) == (0, True)
        task_id = json.loads(typed("tasks", "enqueue", "wait_for_ever", "--json").stdout)["id"]
        assert "It runs on worker" in typed("tasks", "why", task_id).stdout
        write(shop / "src/shop/new.py", "CHANGED = 1\n")
        findings = json.loads(typed("doctor", "--json").stdout)["findings"]
        assert any("runs other code" in one["text"] for one in findings)
        assert typed("tasks", "abort", task_id).stdout.strip() == f"{task_id} is aborted"
        assert typed("tasks", "abort", task_id).returncode == 1
    assert typed("worker-health").returncode == 1


def test_worker_health_loads_no_framework_and_no_driver(shop: Path, environment: dict[str, str]):
    """A container asks every few seconds."""
    code = (
        "import sys\nsys.argv = ['vibetuner', 'worker-health']\n"
        "from vibetuner.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=shop, env={**environment}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "socket" in loaded
    assert not loaded & {
        "asyncio", "beanie", "coredis", "fastapi", "pydantic", "pymongo", "rich", "sqlalchemy",
        "starlette", "streaq", "typer",
    }  # fmt: skip


def test_the_doctor_names_each_fault_and_its_cure(tmp_path: Path, environment: dict[str, str]):
    """Tasks that tune.py does not list, weak secrets, production with DEBUG, a dead service."""
    tune = re.sub(r"tasks=\[add, ", "tasks=[add, add, ", SHOP_TUNE).replace(", which_process]", "]")
    folder = write_project(tmp_path / "shop", SHOP, tune=tune)
    changes = {
        "SECRET_KEY": "short",
        "DEBUG": "true",
        "ENVIRONMENT": "production",
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    done = run_vibetuner("doctor", "--json", folder=folder, seconds=180, **environment | changes)
    report = json.loads(done.stdout)
    texts = "\n".join(f"{f['level']} {f['text']} -> {f['cure']}" for f in report["findings"])

    assert (done.returncode, report["ok"]) == (1, False)
    assert "error tune.py lists add more than once -> Keep one" in texts
    assert re.search(r"error The task which_process .* is not listed in tune.py", texts)
    assert "error DEBUG is set in production -> set DEBUG=false" in texts
    assert "error SECRET_KEY is weak -> make one with:" in texts
    assert "error Redis at redis://127.0.0.1:1 can't be used" in texts
    assert all(finding["cure"] for finding in report["findings"] if finding["level"] != "ok")


def test_a_redis_that_would_lose_tasks_is_named():
    """Eviction, no persistence, an old version, a replica, a full disk, a foreign library."""
    bad = judge_server(
        {"redis_version": "6.2.1", "role": "slave", "rdb_last_bgsave_status": "err"},
        {"appendonly": "no", "save": "", "maxmemory-policy": "allkeys-lru"},
        "another library",
        in_production=True,
    )
    texts = " ".join(finding.text for finding in bad)
    for words in ("no functions", "replica", "snapshot", "never", "may evict", "another version"):
        assert words in texts
    good = judge_server(
        {"redis_version": "8.0.0", "role": "master"},
        {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"},
        None,
        in_production=True,
    )
    assert [finding.level for finding in good] == ["ok"]


def test_the_small_client_speaks_enough_of_the_protocol(servers: Lease):
    """Texts, numbers, lists, nothing, and a refusal."""
    url, key = servers.urls["redis"], f"test-{uuid4().hex}"
    assert ask(f"{url}/1", ["SET", key, "ä"], ["GET", key], ["DEL", key], ["GET", key]) == [
        "OK", "ä", 1, None,
    ]  # fmt: skip
    assert ask(url, ["LRANGE", key, "0", "-1"]) == [[]]
    with pytest.raises(RefusedError, match="unknown command"):
        ask(url, ["NONSENSE"])
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            ask(f"redis://127.0.0.1:{deaf.getsockname()[1]}", ["PING"])
