"""Modules of a project that exit, block, start a thread or run an event loop at their import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import clean_environment, free_port, run_vibetuner, vibetuner
from tests.projects import write_project
from tests.waiting import wait_until

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
REPLACES_STDERR = """
    import io
    import sys

    sys.stderr = io.StringIO()
    raise ValueError("no money")
"""
CLOSES_STDERR = """
    import sys

    sys.stderr.close()
"""
CLOSES_FILES = """
    import os

    os.close(0)
    os.close(1)
"""
FORKS = """
    import os

    if pid := os.fork():
        os.waitpid(pid, 0)
"""
DISABLES_LOGGERS = """
    import logging.config

    logging.config.dictConfig({"version": 1})
"""
LEAVES_THE_FOLDER = """
    import os

    os.chdir("/")
"""
HAS_NO_TEXT = """
    class Wrong(Exception):
        def __str__(self):
            raise ValueError

    raise Wrong
"""
TUNE_ALONE = """
    from vibetuner import VibetunerApp

    app = VibetunerApp()
"""
TUNE = """
    import shop.routes
    from vibetuner import VibetunerApp

    app = VibetunerApp()
"""

pytestmark = pytest.mark.slow


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
    environment: dict[str, str],
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
        *(word.replace("PORT", str(free_port())) for word in command), folder=shop, **environment
    )

    output = done.stdout if command == ["doctor"] else done.stderr
    assert f"{shop}/src/shop/{module}.py:4: {message}" in output
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (REPLACES_STDERR, "routes.py:5: ValueError: no money"),
        (CLOSES_STDERR, "sys.stderr is closed while it is imported"),
        (LEAVES_THE_FOLDER, "/shop during the import. Stay in it"),
        (HAS_NO_TEXT, "routes.py:5: Wrong: no message"),
    ],
    ids=["replaced stderr", "closed stderr", "another folder", "no text"],
)
def test_an_error_reaches_the_terminal(
    tmp_path: Path, environment: dict[str, str], code: str, words: str
):
    """An error at import is printed, even if the module closed stderr or the error has no text."""
    shop = write_project(tmp_path / "shop", {"routes.py": code}, tune=TUNE)

    done = run_vibetuner("run", "prod", "worker", folder=shop, **environment)

    assert words in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("how", ["by the shell", "by a module"])
def test_a_worker_without_standard_files_stops_as_usual(
    tmp_path: Path, environment: dict[str, str], how: str
):
    """A worker that starts without stdin, stdout or stderr stops with exit code 0 at SIGTERM."""
    code = CLOSES_FILES if how == "by a module" else ""
    shop = write_project(tmp_path / "shop", {"routes.py": code}, tune=TUNE)
    closing = "exec 0<&- 1>&- " if how == "by the shell" else "exec "
    log = tmp_path / "log"
    log.touch()
    command = f'{closing} "$0" -m vibetuner run prod worker --port {free_port()} 2> "{log}"'
    with subprocess.Popen(
        ["/bin/sh", "-c", command, sys.executable], cwd=shop, env=clean_environment(**environment)
    ) as process:
        try:
            wait_until(
                lambda: log.exists() and "worker ready" in log.read_text("utf-8"), seconds=60
            )
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "worker stopped" in log.read_text("utf-8").splitlines()[-1]


def test_a_worker_logs_though_a_module_configures_logging(
    tmp_path: Path, environment: dict[str, str]
):
    """A worker's lines are written even if a module's ``dictConfig()`` disables all loggers."""
    shop = write_project(tmp_path / "shop", {"tasks.py": DISABLES_LOGGERS}, tune=TUNE_ALONE)
    arguments = ("run", "prod", "worker", "--port", str(free_port()))
    with vibetuner(
        *arguments, folder=shop, log=tmp_path / "log", environment=environment
    ) as worker:
        worker.wait_for("worker ready", seconds=60)
        assert worker.stop(signal.SIGTERM) == 0
    assert "worker stopped" in worker.output


def test_a_command_without_stderr_has_its_exit_code(tmp_path: Path, environment: dict[str, str]):
    """A command without stderr ends with the exit code of its error."""
    shop = write_project(tmp_path / "shop", {"routes.py": ""}, tune=TUNE)
    command = 'exec "$0" -m vibetuner tasks enqueue ad 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable],
        cwd=shop,
        env=clean_environment(**environment),
        check=False,
    )
    assert done.returncode == 3


def test_signals_that_the_parent_blocks_stop_a_worker(tmp_path: Path, environment: dict[str, str]):
    """A worker whose parent blocks SIGTERM and SIGINT stops with exit code 0 at SIGTERM."""
    shop = write_project(tmp_path / "shop", {"routes.py": ""}, tune=TUNE)
    blocked = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    command = ("run", "prod", "worker", "--port", str(free_port()))
    try:
        with vibetuner(
            *command, folder=shop, log=tmp_path / "log", environment=environment
        ) as running:
            running.wait_for("ready", 60)
            assert running.stop(signal.SIGTERM) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_fork_of_a_module_runs_no_second_worker(tmp_path: Path, environment: dict[str, str]):
    """A process that a module forks at import ends, and starts no worker with the same id."""
    shop = write_project(tmp_path / "shop", {"routes.py": FORKS}, tune=TUNE)
    command = ("run", "prod", "worker", "--port", str(free_port()))
    with vibetuner(*command, folder=shop, log=tmp_path / "log", environment=environment) as running:
        running.wait_for("ready", 60)
        assert running.output.count("worker ready") == 1
        assert (
            "error: shop.tune: a fork of this process goes on after the import." in running.output
        )
        assert running.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("part", ["worker", "frontend"])
def test_a_thread_of_the_project_does_not_hold_up_a_stop(
    tmp_path: Path, environment: dict[str, str], part: str
):
    """A worker and a web process exit with 0 at SIGTERM, and log the thread that still runs."""
    shop = write_project(tmp_path / "shop", {"routes.py": STARTS_A_THREAD}, tune=TUNE)
    command = ("run", "prod", part, "--port", str(free_port()))
    with vibetuner(*command, folder=shop, log=tmp_path / "log", environment=environment) as running:
        running.wait_for("ready", 60)
        assert running.stop(signal.SIGTERM) == 0
        assert "leaving without threads that still run: Thread-" in running.output


def test_a_thread_of_the_project_does_not_hold_up_a_command(
    tmp_path: Path, environment: dict[str, str]
):
    """A command exits with its own code, and logs the thread that still runs."""
    shop = write_project(tmp_path / "shop", {"routes.py": STARTS_A_THREAD}, tune=TUNE)

    done = run_vibetuner("tasks", "enqueue", "ad", folder=shop, **environment)

    first, last = done.stderr.splitlines()
    assert first.startswith("error: The project has no task ad.")
    assert last.startswith("leaving without threads that still run: Thread-")
    assert done.returncode == 3


@pytest.mark.parametrize("part", ["worker", "frontend"])
def test_a_module_may_run_an_event_loop(tmp_path: Path, environment: dict[str, str], part: str):
    """A worker and a web process start and stop normally if a module runs an event loop."""
    shop = write_project(tmp_path / "shop", {"routes.py": RUNS_A_LOOP}, tune=TUNE)
    command = ("run", "prod", part, "--port", str(free_port()))
    with vibetuner(*command, folder=shop, log=tmp_path / "log", environment=environment) as running:
        running.wait_for("ready", 60)
        assert running.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("part", ["worker", "frontend"])
def test_ctrl_c_ends_a_slow_import_at_once(tmp_path: Path, environment: dict[str, str], part: str):
    """Ctrl-C during a slow import ends the process with exit code 130 and no output on stderr."""
    shop = write_project(tmp_path / "shop", {"routes.py": IS_SLOW}, tune=TUNE)
    with subprocess.Popen(
        [sys.executable, "-m", "vibetuner", "run", "prod", part, "--port", str(free_port())],
        cwd=shop,
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "importing\n"
            os.kill(process.pid, signal.SIGINT)
            _, output = process.communicate(timeout=60)
        finally:
            process.kill()

    assert (process.returncode, output) == (130, "")
