"""Commands end quietly if nobody reads their output, and with one line if the disk is full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import clean_environment, run_vibetuner

pytestmark = pytest.mark.slow

SECONDS = 60
FULL = Path("/dev/full")


@contextmanager
def started(
    *arguments: str, folder: Path, stdout: int, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run ``vibetuner …`` with its output going to ``stdout``."""
    with subprocess.Popen(
        [sys.executable, "-m", "vibetuner", *arguments],
        cwd=folder,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "command",
    [["--help"], ["doctor"], ["tasks", "list"], ["worker-health", "--json"]],
    ids=" ".join,
)
def test_a_command_whose_reader_is_gone_says_nothing(
    shop: Path, environment: dict[str, str], command: list[str]
):
    """A command whose reader has closed the pipe prints no error, and exits as after SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    with started(*command, folder=shop, stdout=write, **environment) as process:
        os.close(write)
        _, stderr = process.communicate(timeout=SECONDS)

    assert (process.returncode, stderr) == (141, "")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["--help"], ["tasks", "list"]], ids=" ".join)
def test_a_full_disk_is_reported_in_one_line(
    shop: Path, environment: dict[str, str], command: list[str], unbuffered: str
):
    """A command that writes to a full disk prints one error line, without a traceback."""
    environment["PYTHONUNBUFFERED"] = unbuffered
    with FULL.open("w") as full:
        with started(*command, folder=shop, stdout=full.fileno(), **environment) as process:
            _, stderr = process.communicate(timeout=SECONDS)

    assert stderr == (
        "error: Nothing more can be written: No space left on device. Make room, and try again\n"
    )
    assert process.returncode == 1


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_watching_ends_when_its_reader_does(
    shop: Path, environment: dict[str, str], options: list[str]
):
    """`tasks watch` ends without an error when its reader closes the pipe.

    This holds even while the task reports nothing.
    """
    enqueued = run_vibetuner(
        "tasks", "enqueue", "add", "--args", "[1, 2]", folder=shop, **environment
    )
    task_id = enqueued.stdout.split()[0]
    arguments = ("tasks", "watch", task_id, *options)
    with started(*arguments, folder=shop, stdout=subprocess.PIPE, **environment) as process:
        assert process.stdout
        assert "waiting" in (first := process.stdout.readline()) or "queued" in first
        process.stdout.close()
        process.wait(SECONDS)
        assert process.stderr
        assert process.stderr.read() == ""

    assert process.returncode == 141
