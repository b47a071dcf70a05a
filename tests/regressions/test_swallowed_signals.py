"""A stop signal at the start counts even if Python discards the exception that it raises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import clean_environment
from tests.projects import write_project

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
@pytest.mark.parametrize("part", ["worker", "frontend"])
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
