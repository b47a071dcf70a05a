"""``vibetuner run``: real processes from their start to their end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.processes import (
    Command,
    children_of,
    clean_environment,
    free_port,
    is_gone,
    vibetuner,
    wait_for_http,
    wait_until,
)
from tests.projects import ROUTES, write
from vibetuner.embedded import Lease, status

ALL_READY = 60  # seconds, also until all have ended: a machine that runs other tests, too


class Running:
    """A running ``vibetuner run …`` in a project of its own."""

    def __init__(self, command: Command, root: Path, port: int) -> None:
        self.command = command
        self.root = root
        self.url = f"http://127.0.0.1:{port}"

    @property
    def pid(self) -> int:
        return self.command.process.pid

    @property
    def lines(self) -> list[str]:
        """Return the printed lines, without the label of the process."""
        return [line.split(" | ", 1)[-1] for line in self.command.output.splitlines()]

    def wait_for_worker(self, times: int = 1) -> None:
        self.wait_for("worker ready", times)

    def wait_for_web(self, times: int = 1) -> None:
        self.wait_for("web app ready", times)

    def wait_for(self, words: str, times: int = 1) -> None:
        wait_until(
            lambda: self.command.output.count(words) >= times,
            seconds=ALL_READY,
            what=lambda: f"{words!r} {times} times in:\n{self.command.output}",
        )

    def start(self, task: str, *arguments: Any) -> str:
        """Enqueue a task through the web app; return its id."""
        answer = httpx2.post(f"{self.url}/tasks/{task}", json=list(arguments), timeout=20)
        return str(answer.json()["id"])

    def outcome(self, task_id: str) -> str:
        """Return a task's result, or its exception's message."""
        return str(httpx2.get(f"{self.url}/tasks/{task_id}", timeout=30).json()["outcome"])

    def web_pid(self) -> int:
        return int(httpx2.get(self.url, timeout=20).json()["pid"])

    def services(self) -> set[int]:
        """Return the processes of the project's embedded services."""
        seen = status(self.root)
        return {pid for pid in (seen.keeper, *(one.pid for one in seen.services)) if pid}


@contextmanager
def running(root: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """Run ``vibetuner run <arguments> --port …`` with ``environment`` beside the block."""
    port = free_port()
    with vibetuner(
        "run", *arguments, "--port", str(port),
        folder=root, log=root / "log", environment=environment,
    ) as command:  # fmt: skip
        yield Running(command, root, port)


@pytest.fixture
def real(servers: Lease) -> dict[str, str]:
    """Return the variables of real servers, and of a queue of the test's own."""
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"run-{uuid4().hex[:12]}",
        "SECRET_KEY": "a key that the tests share, and nobody else",
    }


def all_gone(pids: set[int]) -> None:
    wait_until(
        lambda: all(map(is_gone, pids)),
        what=lambda: f"the end of {[pid for pid in pids if not is_gone(pid)]}",
    )


def test_one_command_runs_everything_and_one_ctrl_c_ends_it(shop: Path):
    """`run dev all` makes `.env`, starts servers, web app and worker; Ctrl-C ends all of them."""
    example = "SECRET_KEY=\nREDIS_URL=embedded\nMONGODB_URL=embedded\n"
    (shop / ".env.example").write_text(example)

    with running(shop, "dev", "all") as run:
        run.wait_for_web()
        run.wait_for_worker()
        assert run.outcome(run.start("add", 1, 2)) == "3"

        output = run.command.output
        assert "made .env from .env.example, with a fresh SECRET_KEY\n" in output
        assert re.search(rf"(?m)^web    \| .* web app ready at {run.url}$", output)
        assert re.search(r"(?m)^worker \| .* worker ready: queue corner-shop, 4 tasks", output)
        assert "\x1b" not in output, "nobody's terminal reads it"

        def processes() -> set[int]:
            return {run.pid, *children_of(run.pid), *run.services()}

        # Supervisor, web, worker, keeper, Valkey, document server; nothing else stays.
        wait_until(lambda: len(processes()) == 6, what=processes)
        pids = processes()

        with httpx2.stream("GET", f"{run.url}/events", timeout=30) as stream:
            chunks = stream.iter_text()
            assert next(chunks).startswith("retry:")
            assert run.command.stop(signal.SIGINT) == 0
            assert "event:" not in "".join(chunks), "an open stream ends, and holds up nobody"

    all_gone(pids)
    assert run.lines.count("Traceback (most recent call last):") == 0
    assert sum("stopping; Ctrl-C again stops at once" in line for line in run.lines) == 1
    assert sum("worker stopped" in line for line in run.lines) == 1
    assert "graceful shutdown exceeded" not in run.command.output


def test_a_second_ctrl_c_stops_at_once(shop: Path, real: dict[str, str]):
    """A second Ctrl-C ends every process at once, in the middle of a task's grace period."""
    with running(shop, "dev", "all", **real) as run:
        pids = wait_with_an_endless_task(run)
        run.command.process.send_signal(signal.SIGINT)
        run.wait_for("stopping; Ctrl-C again stops at once")
        time.sleep(1.1)  # until then a second signal is the same one
        run.command.stop(signal.SIGINT, seconds=20)

    all_gone(pids)
    assert "requeueing what still runs" in run.command.output


def test_two_ctrl_cs_in_the_same_moment_leave_nothing_either(shop: Path, real: dict[str, str]):
    """Two Ctrl-Cs at the same moment, which may arrive as one, end every process."""
    with running(shop, "dev", "all", **real) as run:
        pids = wait_with_an_endless_task(run)
        run.command.process.send_signal(signal.SIGINT)
        run.command.stop(signal.SIGINT)

    all_gone(pids)
    assert "Traceback" not in run.command.output


def wait_with_an_endless_task(run: Running) -> set[int]:
    """Start an endless task, wait until it runs, and return the processes."""
    run.wait_for_web()
    run.wait_for_worker()
    run.start("wait_for_ever")
    run.wait_for("wait_for_ever started")
    return {run.pid, *children_of(run.pid)}


BLOCKED_IMPORT = """
    import sys
    import time

    print("begun", flush=True)
    time.sleep(3600)
"""

BLOCKED_LIFESPAN = """
    import asyncio
    from contextlib import asynccontextmanager

    from vibetuner import VibetunerApp
    from vibetuner.tasks.lifespan import base_lifespan


    @asynccontextmanager
    async def lifespan():
        async with base_lifespan() as context:
            print("begun", flush=True)
            try:
                await asyncio.sleep(3600)
            finally:
                print("closed", flush=True)
            yield context


    app = VibetunerApp(worker_lifespan=lifespan, frontend_lifespan=lifespan)
"""


@pytest.mark.parametrize(
    ("number", "tune"),
    [
        (signal.SIGINT, BLOCKED_LIFESPAN),
        (signal.SIGTERM, BLOCKED_IMPORT),
        (signal.SIGHUP, BLOCKED_LIFESPAN),
    ],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_during_the_start_leaves_nothing(shop: Path, number: signal.Signals, tune: str):
    """A signal during the start ends every process that has begun, without a traceback."""
    write(shop / "src" / "shop" / "tune.py", tune)
    (shop / ".env").write_text("REDIS_URL=embedded\n")
    with running(shop, "dev", "all") as run:
        run.wait_for("begun", 2)
        pids = {run.pid, *children_of(run.pid), *run.services()}
        run.command.stop(number, ALL_READY)

    all_gone(pids)
    assert len(pids) == 5
    assert "Traceback" not in run.command.output
    if tune is BLOCKED_LIFESPAN:
        assert run.command.output.count("closed") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("part", "tune"),
    [("frontend", BLOCKED_LIFESPAN), ("worker", BLOCKED_IMPORT)],
    ids=["frontend", "worker"],
)
def test_a_lone_process_can_be_stopped_while_it_starts(
    shop: Path, real: dict[str, str], part: str, tune: str, number: signal.Signals
):
    """A lone process ends with exit code 0 if it is stopped while it starts.

    A terminal that is closed stops it in order, too.
    """
    write(shop / "src" / "shop" / "tune.py", tune)
    with running(shop, "prod", part, **real) as run:
        run.wait_for("begun")
        assert run.command.stop(number, ALL_READY) == 0

    assert "Traceback" not in run.command.output
    assert ("closed" in run.command.output) == (tune is BLOCKED_LIFESPAN)


def test_a_killed_supervisor_leaves_nothing_behind(shop: Path):
    """After SIGKILL of the supervisor, its children and the services end by themselves."""
    (shop / ".env").write_text("REDIS_URL=embedded\n")
    with running(shop, "dev", "all", FORCE_COLOR="1") as run:
        run.wait_for_web()
        run.wait_for_worker()
        pids = {run.pid, *children_of(run.pid), *run.services()}
        assert len(pids) == 5

        run.command.stop(signal.SIGKILL)

        all_gone(pids)
    for label in ("\x1b[36mweb    | \x1b[0m", "\x1b[35mworker | \x1b[0m"):
        assert label in run.command.output, "FORCE_COLOR reaches every process"


def test_a_worker_ends_whose_supervisor_was_gone_before_it_looked(shop: Path, real: dict[str, str]):
    """A worker that looks for its supervisor after that has died stops, as if it had seen it."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    ended = subprocess.run(
        [sys.executable, "-m", "vibetuner.cli.child", "worker", "--supervisor", str(gone.pid)],
        cwd=shop, env=clean_environment(**real), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr


def test_a_process_that_does_not_stop_is_killed_after_its_supervisor():
    """A process with a blocked event loop does not outlive its supervisor for ever."""
    code = (
        "import os, signal, time; from vibetuner.cli.child import end_with\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('stop', flush=True))\n"
        "end_with(os.getpid(), 0.1); time.sleep(600)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "stop\n"), ended.stderr


def test_a_change_restarts_and_a_mistake_waits_for_the_next_change(
    shop: Path, real: dict[str, str]
):
    """A change of the code restarts web app and worker.

    A broken one is reported once, and the processes wait for the next change.
    """
    routes = shop / "src" / "shop" / "routes.py"
    with running(shop, "dev", "all", **real) as run:
        run.wait_for_web()
        run.wait_for_worker()
        first, supervisor = run.web_pid(), run.pid

        write(routes, ROUTES.replace('{"pid": os.getpid()}', '{"pid": os.getpid(), "new": 1}'))
        run.wait_for_web(2)
        run.wait_for_worker(2)
        assert sum("changed: routes.py; restarting" in line for line in run.lines) == 1
        assert httpx2.get(run.url, timeout=30).json()["new"] == 1
        assert run.web_pid() != first
        assert is_gone(first)

        write(routes, ROUTES + "\n    def broken(:\n")
        run.wait_for("web ended with exit code 1; waiting for a change")
        run.wait_for("worker ended with exit code 1; waiting for a change")
        broken = [line for line in run.lines if line.startswith("error: ")]
        assert len(broken) == 1, "what keeps both from starting is said once"
        assert f"{routes}:{len(routes.read_text().splitlines())}: syntax error" in broken[0]
        assert "Traceback" not in run.command.output

        write(routes, ROUTES)
        run.wait_for_web(3)
        run.wait_for_worker(3)
        assert run.outcome(run.start("add", 20, 22)) == "42"
        assert run.pid == supervisor
        assert run.command.stop() == 0


def test_in_production_children_come_back_and_every_line_is_json(shop: Path, real: dict[str, str]):
    """In production, killed processes are restarted, and every line of the log is JSON."""
    with running(shop, "prod", "all", "--workers", "2", **real) as run:
        run.wait_for_web(2)
        run.wait_for_worker(2)
        before = children_of(run.pid)
        assert len(before) == 4

        failed = run.start("fails_twice", "hunter2")
        assert run.outcome(failed) == "the till is empty"
        assert run.outcome(run.start("add", 1, 2)) == "3"

        web, worker = run.web_pid(), int(run.outcome(run.start("which_process")))
        for pid in (web, worker):
            os.kill(pid, signal.SIGKILL)
        all_gone({web, worker})
        run.wait_for_web(3)
        run.wait_for_worker(3)
        assert len(children_of(run.pid) & before) == 2
        wait_until(
            lambda: len(children_of(run.pid)) == 4
        )  # a child forks before it runs its program
        wait_for_http(run.url)
        assert run.outcome(run.start("add", 2, 2)) == "4"

        assert run.command.stop(signal.SIGTERM) == 0

    all_gone(before | {run.pid})
    entries = [json.loads(line) for line in run.command.output.splitlines()]
    assert {entry.get("process") for entry in entries} == {
        "supervisor", "web-1", "web-2", "worker-1", "worker-2",
    }  # fmt: skip
    restarts = [entry["message"] for entry in entries if "starting it again" in entry["message"]]
    assert len(restarts) == 2
    assert all("was ended by SIGKILL; starting it again in 0.5 s" in line for line in restarts)
    about = [entry for entry in entries if entry.get("task_id") == failed]
    # Another worker may have run the second attempt before the first says that there will be one.
    lines = {entry["level"]: entry["message"] for entry in about}
    assert len(about) == len(lines) == 2
    assert lines["warning"].startswith("fails_twice failed (attempt 1), retrying in ")
    assert re.fullmatch(r"fails_twice failed after \S+ ms \(attempt 2\)", lines["error"])
    assert {entry["process"] for entry in about} <= {"worker-1", "worker-2"}
    assert all("traceback" in entry for entry in about)
    for entry in about:
        assert entry.get("traceback", "").count("ValueError: the till is empty") <= 1
    assert "hunter2" not in run.command.output


def test_a_lone_worker_is_one_process_with_a_page_and_ends_in_order(
    shop: Path, real: dict[str, str]
):
    """A lone worker is one process with a monitor, and stops in order at SIGTERM."""
    with running(shop, "prod", "worker", **real) as run:
        run.wait_for_worker()
        assert children_of(run.pid) == set()

        def health() -> dict[str, Any]:
            return httpx2.get(f"{run.url}/health", timeout=20).json()

        # The monitor starts on the first request, and learns of the worker then.
        wait_until(lambda: "queue" in health(), what=health)
        assert health()["queue"] == real["REDIS_KEY_PREFIX"]
        assert health()["tasks"] == ["add", "fails_twice", "wait_for_ever", "which_process"]

        assert run.command.stop(signal.SIGTERM) == 0

    messages = [json.loads(line)["message"] for line in run.command.output.splitlines()]
    assert messages == [
        f"worker ready: queue {real['REDIS_KEY_PREFIX']}, 4 tasks, 16 at a time",
        "received SIGTERM; stopping",
        "worker stopped",
    ]


def test_a_lone_web_process_ends_with_its_streams(shop: Path, real: dict[str, str]):
    """A lone web process ends its open streams at SIGTERM, and exits with 0."""
    with running(shop, "prod", "frontend", **real) as run:
        run.wait_for_web()
        assert children_of(run.pid) == set()
        with httpx2.stream("GET", f"{run.url}/events", timeout=30) as stream:
            chunks = stream.iter_text()
            assert next(chunks).startswith("retry:")
            assert run.command.stop(signal.SIGTERM) == 0
            assert "event:" not in "".join(chunks)
    assert all("Traceback" not in line for line in run.lines)
    assert len(run.lines) == 1


def test_pages_need_no_redis(shop: Path):
    """`run dev frontend` serves pages without Redis, and logs each request."""
    with running(shop, "dev", "frontend") as run:
        run.wait_for_web()
        assert set(httpx2.get(run.url, timeout=30).json()) == {"pid"}
        run.wait_for('"GET / HTTP/1.1" 200')
        assert run.command.stop() == 0
