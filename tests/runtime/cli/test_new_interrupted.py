"""`vibetuner new task`, interrupted at the moments that matter: all files, or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.processes import clean_environment, wait_until
from tests.projects import write_project

# Large enough that its writing takes a while; ruff does not format it.
LONG_PAGE = "{{ 'x' * 30_000_000 }}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a project without tasks."""
    return write_project(tmp_path / "shop")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_signal_while_files_are_written_waits_for_all(
    project: Path, number: signal.Signals, code: int
):
    """A signal while files are written takes effect after all of them, and leaves no draft."""
    (project / "scaffold").mkdir()
    for name in ("progress_page.html.jinja", "progress_run.html.jinja"):
        (project / "scaffold" / name).write_text(LONG_PAGE)
    with new_task(project) as process:
        wait_until(
            lambda: leftovers(project), seconds=60, what=lambda: "the first file", pause=0.002
        )
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (code, "")
    assert written(project) == 6
    assert "Next:" in stdout
    assert not leftovers(project)


def test_ctrl_c_before_that_leaves_everything_as_it_was(project: Path):
    """Ctrl-C before the first file is written leaves everything as it was.

    The command waits for the end of a file of the project meanwhile.
    """
    endless = project / "src" / "shop" / "endless.py"
    os.mkfifo(endless)
    with new_task(project) as process, opened_by_reader(endless):
        stdout, stderr = interrupt(process)

    assert (process.returncode, stdout) == (130, "")
    assert stderr == "interrupted: nothing was written\n"
    assert written(project) == 0
    assert not (project / "tests").exists()
    assert not leftovers(project)


@contextmanager
def new_task(project: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the command beside the block, and kill it at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "vibetuner", "new", "task", "send-report", "--progress"],
        cwd=project,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with ExitStack() as stack:
            stack.callback(process.kill)
            yield process


def interrupt(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C until the command ends: Python may miss one right before it reads."""
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=3)
    raise AssertionError("it goes on")


@contextmanager
def opened_by_reader(fifo: Path) -> Iterator[None]:
    """Wait until somebody reads from a pipe, and keep them waiting."""
    opened: list[int] = []

    def is_read() -> bool:
        try:
            opened.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    wait_until(is_read, what=lambda: f"a reader of {fifo}")
    try:
        yield
    finally:
        os.close(opened[0])


def written(project: Path) -> int:
    """Return how many files of the task are written."""
    names = sum(not one.name.startswith(".") for one in project.rglob("*send_report*"))
    return names + ("send_report" in (project / "src/shop/tune.py").read_text())


def leftovers(project: Path) -> list[Path]:
    """Return the drafts beside the files that they will become."""
    return [*project.rglob(".*.py.*")]
