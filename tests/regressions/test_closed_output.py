"""If nobody reads their output, or the disk is full, commands end quietly or with one line."""

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
    """Its exit code is that of a program which SIGPIPE ends."""
    read, write = os.pipe()
    os.close(read)
    with started(*command, folder=shop, stdout=write, **environment) as process:
        os.close(write)
        _, said = process.communicate(timeout=SECONDS)

    assert (process.returncode, said) == (141, "")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["--help"], ["tasks", "list"]], ids=" ".join)
def test_a_full_disk_is_reported_in_one_line(
    shop: Path, environment: dict[str, str], command: list[str], unbuffered: str
):
    """There is no traceback at the interpreter's exit."""
    environment["PYTHONUNBUFFERED"] = unbuffered
    with FULL.open("w") as full:
        with started(*command, folder=shop, stdout=full.fileno(), **environment) as process:
            _, said = process.communicate(timeout=SECONDS)

    assert said == (
        "error: Nothing more can be written: No space left on device. Make room, and try again\n"
    )
    assert process.returncode == 1


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_watching_ends_when_its_reader_does(
    shop: Path, environment: dict[str, str], options: list[str]
):
    """It ends even while the task reports nothing, and without a message about Redis."""
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
