"""`vibetuner tasks`, `doctor` and `worker-health`, typed in a small project."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.processes import free_port, run_vibetuner, vibetuner
from tests.projects import SHOP, SHOP_TUNE, write, write_project
from tests.valkey import Valkey
from tests.waiting import wait_until
from vibetuner.cli.checks import Finding
from vibetuner.cli.checks.outside import check_drift, check_version
from vibetuner.cli.checks.redis import judge_server
from vibetuner.config import Settings
from vibetuner.embedded import Lease
from vibetuner.project import ProjectInfo
from vibetuner.redis.blocking import RefusedError, ask
from vibetuner.redis.url import parse_url

Typed = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture
def typed(shop: Path, environment: dict[str, str]) -> Typed:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run_vibetuner(*arguments, folder=shop, seconds=180, **{**environment, **variables})

    return run


def test_without_a_worker_a_task_is_enqueued_explained_and_marked(typed: Typed):
    """Without a worker, a task can be enqueued, explained, shown and marked as aborted.

    Wrong input is refused in one line.
    """
    empty = typed("tasks", "list", "--json")
    assert (empty.returncode, json.loads(empty.stdout)) == (3, {"tasks": [], "next": None})

    enqueued = typed("tasks", "enqueue", "add", "--args", "[1, 2]", "--json")
    task_id = json.loads(enqueued.stdout)["id"]
    why = typed("tasks", "why", task_id)
    assert why.returncode == 0
    assert "No worker is running" in why.stdout
    assert "vibetuner run dev worker" in why.stdout
    shown = json.loads(typed("tasks", "show", task_id, "--json").stdout)
    assert (shown["state"], shown["arguments"]) == ("queued", {"a": "1", "b": "2"})
    marked = typed("tasks", "abort", task_id).stdout.splitlines()
    assert marked[0] == f"{task_id} is marked: the worker that takes it ends it"
    assert any("No worker is running" in line for line in marked)
    assert json.loads(typed("tasks", "stats", "--json").stdout)["queued"] == 1

    for arguments, code, words in (
        (("show", "nobody"), 3, "There is no task nobody"),
        (("why", "nobody"), 3, "There is no task nobody"),
        (("abort", "nobody"), 3, "There is no task nobody"),
        (("enqueue", "ad"), 3, "Did you mean add?"),
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
    """`worker-health` and `doctor` see a live worker, and a stopped one.

    `doctor` names a worker with other code, and one of another project with the same prefix.
    """
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
        wait_until(lambda: "It runs on worker" in typed("tasks", "why", task_id).stdout)
        write(shop / "src/shop/new.py", "CHANGED = 1\n")
        findings = json.loads(typed("doctor", "--json").stdout)["findings"]
        assert any("runs other code" in one["text"] for one in findings)
        [view] = json.loads(typed("tasks", "stats", "--json").stdout)["workers"]
        assert "runs other code" in view["faults"][0]["text"]
        about = (shop / "pyproject.toml").read_text(encoding="utf-8")
        write(shop / "pyproject.toml", about.replace('"corner-shop"', '"other-shop"'))
        prefix = environment.get("REDIS_KEY_PREFIX", "corner-shop:")
        findings = json.loads(typed("doctor", "--json", REDIS_KEY_PREFIX=prefix).stdout)["findings"]
        assert any("belongs to another project, corner-shop" in one["text"] for one in findings)
        write(shop / "pyproject.toml", about)
        assert typed("tasks", "abort", task_id).stdout.strip() == f"{task_id} is aborted"
        assert typed("tasks", "abort", task_id).returncode == 1
    assert typed("worker-health").returncode == 1


FRAMEWORKS = {"beanie", "fastapi", "httpx2", "jinja2", "rich", "sqlalchemy", "starlette", "shop"}
DRIVERS = {"asyncio", "coredis", "pydantic", "pymongo", "streaq"}


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("worker-health", FRAMEWORKS | DRIVERS | {"typer"}),
        ("tasks --help", FRAMEWORKS | DRIVERS),
        ("tasks list --help", FRAMEWORKS | DRIVERS),
        ("dead-letters --help", FRAMEWORKS | DRIVERS),
        ("tasks list", FRAMEWORKS),
        ("tasks stats", FRAMEWORKS),
        ("dead-letters list", FRAMEWORKS),
    ],
)
def test_a_command_loads_no_more_than_it_needs(
    command: str,
    without: set[str],
    shop: Path,
    environment: dict[str, str],
    servers: Lease,
):
    """Each command loads only the libraries that it needs.

    A container asks for the health every few seconds, and a person doesn't like to wait.
    """
    code = (
        f"import atexit, sys\nsys.argv = ['vibetuner', *{command.split()}]\n"
        "atexit.register(lambda: print('loaded:', *sys.modules))\n"
        "from vibetuner.__main__ import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=shop, capture_output=True, text=True, check=False,
        env={**environment, "MONGODB_URL": servers.urls["mongodb"]},
    )  # fmt: skip
    modules = done.stdout.rpartition("loaded: ")[2].split()
    loaded = {name.partition(".")[0] for name in modules}
    assert "vibetuner" in loaded, done.stderr
    assert not loaded & without


JOB = """
    from vibetuner.tasks.robust import robust_task


    @robust_task()
    async def add() -> None: ...
"""
JOB_TUNE = """
    from shop.jobs import add
    from vibetuner import VibetunerApp

    app = VibetunerApp(tasks=[add])
"""


def test_a_worker_with_only_redis_loads_no_more_than_it_needs(
    tmp_path: Path, environment: dict[str, str]
):
    """A worker with only Redis loads no library that it doesn't need.

    Every worker of every project pays for each megabyte and each tenth of a second.
    """
    folder = write_project(tmp_path / "shop", {"jobs.py": JOB}, tune=JOB_TUNE)
    code = (
        "import atexit, sys\nsys.argv = ['vibetuner', 'run', 'prod', 'worker']\n"
        "atexit.register(lambda: print('loaded:', *sys.modules))\n"
        "from vibetuner.__main__ import main\nmain()\n"
    )
    nowhere = {
        "REDIS_URL": "redis://127.0.0.1:1",
        "SECRET_KEY": "of a worker that is only started" * 2,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        env={**environment, **nowhere, "PYTHONPATH": "src"},
    )  # fmt: skip
    modules = done.stdout.rpartition("loaded: ")[2].split()
    loaded = {name.partition(".")[0] for name in modules}

    assert "can't be reached" in done.stderr or "can't be used" in done.stderr
    assert {"shop", "coredis", "streaq"} <= loaded
    assert not loaded & {
        "aiosmtplib", "aiosqlite", "alembic", "beanie", "beartype", "fastapi", "httpx2", "jinja2",
        "multiprocessing", "pydantic_settings", "pymongo", "rich", "sqlalchemy", "sqlmodel",
        "starlette", "typer", "uvicorn", "watchfiles",
    }  # fmt: skip


def test_the_doctor_names_each_fault_and_its_cure(tmp_path: Path, environment: dict[str, str]):
    """The doctor names each fault with a cure, such as an unlisted task or a weak secret."""
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
    assert "error DEBUG=true in production shows source code and values to every visitor" in texts
    assert "error SECRET_KEY is weak -> make one with:" in texts
    assert "error Redis at redis://127.0.0.1:1 can't be used" in texts
    assert all(finding["cure"] for finding in report["findings"] if finding["level"] != "ok")


BAD = (
    {"redis_version": "6.2.1", "role": "slave", "rdb_last_bgsave_status": "err"},
    {"appendonly": "no", "save": "", "maxmemory-policy": "allkeys-lru"},
    "another library",
)
NEARLY_FULL = {"redis_version": "7.2.0", "used_memory": 95_000_000, "maxmemory": 100_000_000}
OTHER_ENGINE = "another version of the queue's engine uses this server, and replaces our functions"


@pytest.mark.parametrize(
    ("server", "environment", "expected"),
    [
        (
            BAD,
            "production",
            [
                ("error", "version 6.2.1 has no functions"),
                ("error", "it is a read-only replica"),
                ("error", "its last snapshot has failed"),
                ("error", "it never saves: a crash loses tasks"),
                ("error", "it may evict tasks when memory is short (maxmemory-policy allkeys-lru)"),
                ("warning", OTHER_ENGINE),
            ],
        ),
        (
            ({**NEARLY_FULL, "used_memory": 10**8}, {"appendonly": "no", "save": "60 1"}, None),
            "development",
            [
                ("warning", "it saves only now and then: a crash loses tasks"),
                (
                    "error",
                    "its memory is 100 % full (100 of 100 MB); it refuses new tasks and events",
                ),
            ],
        ),
        (
            (NEARLY_FULL, {}, None),
            "production",
            [
                ("warning", "its memory is 95 % full (95 of 100 MB)"),
                ("note", "its configuration can't be read"),
            ],
        ),
        (
            (
                {"redis_version": "8.0.0", "role": "master"},
                {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"},
                None,
            ),
            "production",
            [("ok", "8.0.0: keeps what it is given")],
        ),
    ],
    ids=["bad", "full", "nearly full", "good"],
)
def test_a_redis_that_would_lose_tasks_is_named(
    server: tuple[dict[str, Any], dict[str, str], str | None],
    environment: str,
    expected: list[tuple[str, str]],
):
    """The doctor names what would lose or refuse tasks: no persistence, a replica, full memory."""
    found = judge_server(Settings(environment=environment), *server)
    assert [(one.level, one.text) for one in found] == expected
    assert all(one.cure for one in found if one.level != "ok")


@pytest.mark.parametrize(
    ("mode", "words", "url"),
    [
        ("sentinel", "it is a Sentinel", "redis+sentinel://host:26379/mymaster"),
        ("cluster", "it is a node of a Cluster", "redis+cluster://host:6379"),
    ],
)
def test_a_server_of_another_kind_is_named_with_what_to_write(mode: str, words: str, url: str):
    """A Sentinel or a node of a Cluster, taken for a server, is named with the URL to write."""
    info = {"redis_version": "8.0.0", "redis_mode": mode}
    found, *_ = judge_server(Settings(environment="production"), info, {}, None)
    assert (found.level, words in found.text) == ("error", True)
    assert url in found.cure


def test_the_small_client_speaks_enough_of_the_protocol(servers: Lease):
    """The small client reads texts, numbers, lists, nulls and errors of Redis."""
    url, key = servers.urls["redis"], f"test-{uuid4().hex}"
    second = parse_url(f"{url}/1")
    assert ask(second, ["SET", key, "ä"], ["GET", key], ["DEL", key], ["GET", key]) == [
        "OK", "ä", 1, None,
    ]  # fmt: skip
    assert ask(parse_url(url), ["LRANGE", key, "0", "-1"]) == [[]]
    with pytest.raises(RefusedError, match="unknown command"):
        ask(parse_url(url), ["NONSENSE"])
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="refused"):
            ask(parse_url(f"redis://127.0.0.1:{deaf.getsockname()[1]}"), ["PING"])


def test_the_doctor_compares_a_project_with_its_template(tmp_path: Path):
    """The doctor compares a project's version and managed files with its template."""
    template, root = repository(tmp_path / "template"), repository(tmp_path / "shop")
    for version in ("v1.2.0", "v1.10.0", "nightly"):
        git(template, "tag", version)
    project = ProjectInfo("Shop", "shop", "shop", "0", "", root)
    assert not [*check_version(project), *check_drift(project)]  # it was made from no template

    write(root / ".copier-answers.yml", f"_commit: v1.2.0\n_src_path: {template}\n")
    write(root / "Dockerfile", "FROM template\n")
    write(root / "pyproject.toml", "dependencies = []\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "from the template")
    assert texts_of(check_version(project)) == ["note version v1.2.0; there is v1.10.0"]
    assert not list(check_drift(project))

    write(root / "Dockerfile", "FROM me\n")
    write(root / "pyproject.toml", 'dependencies = ["argon2-cffi"]\n')  # as uv add does
    write(root / ".copier-answers.yml", f"_commit: v1.10.0\n_src_path: {template}\n")
    assert texts_of(check_version(project)) == ["ok version v1.10.0, the newest known"]
    (drift,) = check_drift(project)
    assert drift.text == "changed since the template wrote them: Dockerfile"

    write(root / ".copier-answers.yml", f"_commit: v1.10.0\n_src_path: {tmp_path / 'gone'}\n")
    assert "newest is not known from here" in texts_of(check_version(project))[0]


def test_a_frozen_redis_keeps_no_command_waiting(
    shop: Path, environment: dict[str, str], tmp_path: Path
):
    """While Redis is frozen, each command fails with one line, and the doctor reports all else."""
    with Valkey(tmp_path) as server:
        frozen = environment | {"REDIS_URL": server.url}
        with server.frozen():
            for arguments in ("tasks stats", "tasks why 0123456789", "tasks watch 0123456789"):
                done = run_vibetuner(*arguments.split(), folder=shop, seconds=60, **frozen)
                assert done.returncode == 1, arguments
                assert len(done.stderr.splitlines()) == 1, done.stderr
                assert f"Redis at {server.url} can't be used" in done.stderr
            done = run_vibetuner("doctor", "--json", folder=shop, seconds=60, **frozen)
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 1
    assert any("no answer within 3 s" in one["text"] for one in findings)
    assert any(one["area"] == "project" and one["level"] == "ok" for one in findings)


def test_the_first_characters_of_an_id_will_do(typed: Typed):
    """The first eight characters of an id are enough if they begin one task only."""
    task_id = json.loads(typed("tasks", "enqueue", "add", "--args", "[1, 2]", "--json").stdout)[
        "id"
    ]
    shown = typed("tasks", "show", task_id[:8], "--json")
    assert (shown.returncode, json.loads(shown.stdout)["id"]) == (0, task_id)
    assert typed("tasks", "show", task_id[:7]).returncode == 3
    assert "No worker is running" in typed("tasks", "why", task_id[:8]).stdout
    aborted = json.loads(typed("tasks", "abort", task_id[:8], "--json").stdout)
    assert aborted == {"id": task_id, "aborted": False}


def test_characters_that_begin_several_ids_are_refused_with_those_ids(
    typed: Typed, environment: dict[str, str]
):
    """Characters that begin several ids are refused in one line with those ids.

    A longer part of one id is accepted.
    """
    ids = [f"{TWINS}{last * 24}" for last in "ab"]
    schedule(environment, *ids)
    for command in ("show", "why", "abort", "watch"):
        refused = typed("tasks", command, TWINS)
        assert refused.returncode == 1, command
        (line,) = refused.stderr.splitlines()
        assert line == f"error: 2 tasks begin with {TWINS}: {ids[0]}, {ids[1]}. Type more of the id"
    assert json.loads(typed("tasks", "show", f"{TWINS}b", "--json").stdout)["id"] == ids[1]


def test_the_first_characters_will_do_to_watch(
    shop: Path, environment: dict[str, str], tmp_path: Path, typed: Typed
):
    """`tasks watch` accepts the first characters of an id, and Ctrl-C ends it."""
    schedule(environment, f"{TWINS}{'a' * 24}")
    with vibetuner(
        *("tasks", "watch", TWINS), folder=shop, log=tmp_path / "log", environment=environment
    ) as command:
        command.wait_for("waiting", seconds=60)
        assert command.stop() == 130


TWINS = "0123abcd"


def schedule(environment: dict[str, str], *ids: str) -> None:
    """Schedule tasks of these ids in an hour, as the engine stores them."""
    prefix = f"streaq:{environment['REDIS_KEY_PREFIX']}:"
    due = str(int((time.time() + 3600) * 1000))
    commands = [["ZADD", f"{prefix}queues:delayed:normal", due, task_id] for task_id in ids]
    commands += [["SET", f"{prefix}task:data:{task_id}", "unread"] for task_id in ids]
    ask(parse_url(environment["REDIS_URL"]), *commands)


def test_watch_reports_that_redis_is_silent_and_goes_on_when_it_is_back(
    shop: Path, environment: dict[str, str], tmp_path: Path
):
    """`tasks watch` reports a frozen Redis and goes on afterwards; Ctrl-C ends it meanwhile."""
    with Valkey(tmp_path) as server:
        own = environment | {"REDIS_URL": server.url}
        enqueued = run_vibetuner(
            "tasks", "enqueue", "add", "--args", "[1, 2]", "--json", folder=shop, seconds=120, **own
        )
        watch = ("tasks", "watch", json.loads(enqueued.stdout)["id"])
        with vibetuner(*watch, folder=shop, log=tmp_path / "one", environment=own) as command:
            command.wait_for("waiting", seconds=60)
            with server.frozen():
                command.wait_for(f"Redis at {server.url} does not answer; waiting for it")
            command.wait_for("answers again")
            worker = ("run", "prod", "worker", "--port", str(free_port()))
            with vibetuner(*worker, folder=shop, log=tmp_path / "worker", environment=own):
                command.wait_for("done", seconds=90)
            assert command.process.wait(60) == 0

        (tmp_path / "two").touch()
        schedule(own, f"{TWINS}{'a' * 24}")
        watch = ("tasks", "watch", TWINS)
        with vibetuner(*watch, folder=shop, log=tmp_path / "two", environment=own) as command:
            command.wait_for("waiting", seconds=60)
            with server.frozen():
                command.wait_for("does not answer")
                assert command.stop(seconds=10) == 130
            assert "Traceback" not in command.output


def repository(folder: Path) -> Path:
    write(folder / "README.md", "one\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


def texts_of(findings: Iterable[Finding]) -> list[str]:
    return [f"{finding.level} {finding.text}" for finding in findings]
