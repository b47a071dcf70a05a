"""Stop signals reach the process that they are sent to: discarded at a start, or for a fork."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from tests.processes import clean_environment, free_port, vibetuner
from tests.projects import write_project
from vibetuner.tasks.run.stop import Stop

# Python discards an exception of a destructor, or of the callback that frees an import's lock.
PROGRAM = """
import os, signal, socket, sys

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

class Finder:
    def find_spec(self, name, *_):
        if name in {"vibetuner.cli.web", "vibetuner.cli.worker"}:
            Dropped()

sys.meta_path.insert(0, Finder())
from vibetuner.cli.child import main
with socket.create_server(("127.0.0.1", 0)) as listener:
    main([sys.argv[1], "--fd", str(listener.detach())])
"""


@pytest.mark.process
@pytest.mark.parametrize("part", ["worker", "frontend", "monitor"])
def test_a_process_stops_that_gets_its_signal_in_a_destructor(
    environment: dict[str, str], tmp_path: Path, part: str
):
    """A process that gets SIGTERM while a destructor runs exits with 0 and never becomes ready."""
    project = write_project(tmp_path / "project")
    # No fork, which has imported these modules already.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, part],
        cwd=project,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored in" in done.stderr
    assert "ready" not in done.stderr


FORKS = """
    import multiprocessing
    import time

    from fastapi import APIRouter

    router = APIRouter()


    def fork() -> int | None:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(5,))
        child.start()
        child.terminate()
        child.join()
        return child.exitcode


    @router.get("/fork")
    def fork_in_a_thread() -> int | None:
        return fork()
"""


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of a process with threads
async def test_a_signal_for_a_fork_ends_the_fork_alone():
    """SIGTERM ends a process that a task has forked, and not the worker, which shares a pipe."""
    stop = Stop()
    with stop.on_signals():
        child = os.fork()
        if not child:
            time.sleep(5)  # noqa: ASYNC251 - no loop runs in the fork
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        assert not stop.requested.is_set()


def test_a_signal_ends_a_fork_of_a_web_process(environment: dict[str, str], tmp_path: Path):
    """SIGTERM ends a process that a route has forked, though a web process handles it."""
    tune = """
        from shop.routes import router
        from vibetuner import VibetunerApp

        app = VibetunerApp(routes=[router])
    """
    project, port = (
        write_project(tmp_path / "project", {"routes.py": FORKS}, tune=tune),
        free_port(),
    )
    with vibetuner(
        *("run", "dev", "frontend", "--port", str(port)),
        folder=project, log=tmp_path / "log", environment=environment,
    ) as web:  # fmt: skip
        web.wait_for("web app ready", seconds=30)
        answer = httpx2.get(f"http://127.0.0.1:{port}/fork", timeout=20)
        assert answer.json() == -signal.SIGTERM
