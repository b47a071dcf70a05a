"""Modules of a project that exit, block, start a thread or run an event loop at their import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.processes import clean_environment, free_port, run_vibetuner, vibetuner
from tests.projects import write_project
from vibetuner.embedded import Lease

EXITS = """
    import sys

    if True:
        sys.exit(2)
"""
INTERRUPTS = """
    import sys

    if True:
        raise KeyboardInterrupt
"""
STARTS_A_THREAD = """
    import threading

    threading.Thread(target=threading.Event().wait).start()
"""
RUNS_A_LOOP = """
    import asyncio

    asyncio.run(asyncio.sleep(0))
"""
IS_SLOW = """
    import time

    print("importing", flush=True)
    time.sleep(600)
"""
TUNE = """
    import shop.routes
    from vibetuner import VibetunerApp

    app = VibetunerApp()
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def variables(servers: Lease) -> dict[str, str]:
    """Return the environment of a project with its own queue."""
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"test-{uuid4().hex[:8]}",
        "SECRET_KEY": "Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
    }


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["run", "prod", "worker"], "tasks"),
        (["run", "prod", "frontend", "--port", "PORT"], "routes"),
        (["tasks", "enqueue", "add"], "tasks"),
        (["doctor"], "tasks"),
    ],
    ids=["worker", "web", "tasks", "doctor"],
)
@pytest.mark.parametrize(
    ("code", "message"),
    [(EXITS, "sys.exit(2) is called while the module is"), (INTERRUPTS, "KeyboardInterrupt: ")],
    ids=["exit", "interrupt"],
)
def test_every_command_names_the_line(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    variables: dict[str, str],
    command: list[str],
    module: str,
    code: str,
    message: str,
):
    """A command reports the file and line that exits at import, without a traceback.

    The module may be imported by tune.py, or only by the search for tasks.
    """
    files = {"routes.py": "", "tasks.py": "", f"{module}.py": code}
    shop = write_project(tmp_path / "shop", files, tune=TUNE)

    done = run_vibetuner(
        *(word.replace("PORT", str(free_port())) for word in command), folder=shop, **variables
    )

    output = done.stdout if command == ["doctor"] else done.stderr
    assert f"{shop}/src/shop/{module}.py:4: {message}" in output
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("part", ["worker", "frontend"])
def test_a_thread_of_the_project_does_not_hold_up_a_stop(
    tmp_path: Path, variables: dict[str, str], part: str
):
    """A worker and a web process exit with 0 at SIGTERM, and log the thread that still runs."""
    shop = write_project(tmp_path / "shop", {"routes.py": STARTS_A_THREAD}, tune=TUNE)
    command = ("run", "prod", part, "--port", str(free_port()))
    with vibetuner(*command, folder=shop, log=tmp_path / "log", environment=variables) as running:
        running.wait_for("ready", 60)
        assert running.stop(signal.SIGTERM) == 0
        assert "leaving without threads that still run: Thread-" in running.output


def test_a_thread_of_the_project_does_not_hold_up_a_command(
    tmp_path: Path, variables: dict[str, str]
):
    """A command exits with its own code, and logs the thread that still runs."""
    shop = write_project(tmp_path / "shop", {"routes.py": STARTS_A_THREAD}, tune=TUNE)

    done = run_vibetuner("tasks", "enqueue", "ad", folder=shop, **variables)

    first, last = done.stderr.splitlines()
    assert first.startswith("error: This project has no task named ad.")
    assert last.startswith("leaving without threads that still run: Thread-")
    assert done.returncode == 1


@pytest.mark.parametrize("part", ["worker", "frontend"])
def test_a_module_may_run_an_event_loop(tmp_path: Path, variables: dict[str, str], part: str):
    """A worker and a web process start and stop normally if a module runs an event loop."""
    shop = write_project(tmp_path / "shop", {"routes.py": RUNS_A_LOOP}, tune=TUNE)
    command = ("run", "prod", part, "--port", str(free_port()))
    with vibetuner(*command, folder=shop, log=tmp_path / "log", environment=variables) as running:
        running.wait_for("ready", 60)
        assert running.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("part", ["worker", "frontend"])
def test_ctrl_c_ends_a_slow_import_at_once(tmp_path: Path, variables: dict[str, str], part: str):
    """Ctrl-C during a slow import ends the process with exit code 130 and no output on stderr."""
    shop = write_project(tmp_path / "shop", {"routes.py": IS_SLOW}, tune=TUNE)
    with subprocess.Popen(
        [sys.executable, "-m", "vibetuner", "run", "prod", part, "--port", str(free_port())],
        cwd=shop,
        env=clean_environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "importing\n"
            os.kill(process.pid, signal.SIGINT)
            _, output = process.communicate(timeout=30)
        finally:
            process.kill()

    assert (process.returncode, output) == (130, "")
