"""Forked commands behave like commands that the interpreter starts."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.forks import Forked, Forks
from tests.processes import clean_environment, free_port, run_code, run_vibetuner, vibetuner
from tests.projects import write_project

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Forks.are_possible(), reason="commands are started as usual"),
]

VERSION = ("-m", "vibetuner", "--version")
# On import, it reports all that a program can see of its process.
TUNE = """
    import gc
    import json
    import locale
    import os
    import signal
    import sys
    import tempfile
    import threading
    import time
    from pathlib import Path

    from vibetuner import VibetunerApp

    app = VibetunerApp()

    status = Path("/proc/self/status").read_text().splitlines()
    main = sys.modules["__main__"]
    streams = (sys.stdin, sys.stdout, sys.stderr)
    handlers = {number.name: signal.getsignal(number) for number in signal.Signals}
    seen = {
        "arguments": sys.argv,
        "path": sys.path,
        "folder": os.getcwd(),
        "variables": {n: v for n, v in os.environ.items() if n != "REPORT"},
        "flags": [str(sys.flags), sys.warnoptions, sys.dont_write_bytecode],
        "main": [main.__name__, main.__spec__.name, main.__file__],
        "streams": [
            [s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty(), s.fileno()]
            for s in streams
        ],
        "files": sorted(map(int, os.listdir("/proc/self/fd"))),
        "inherited": [
            line for line in status
            if line.startswith(("Umask", "SigB", "SigI", "SigC", "Uid", "Cap", "Cpus", "Threads"))
        ],
        "limits": Path("/proc/self/limits").read_text(),
        "group": [os.getpgrp(), os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0)],
        "handlers": {
            name: getattr(handler, "__qualname__", str(handler))
            for name, handler in handlers.items()
        },
        "threads": [thread.name for thread in threading.enumerate()],
        "garbage": [gc.isenabled(), gc.get_threshold()],
        "place": [locale.setlocale(locale.LC_ALL), time.tzname, tempfile.gettempdir()],
    }
    Path(os.environ["REPORT"]).write_text(json.dumps(seen))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a project that reports the state of its process when it is imported."""
    return write_project(tmp_path / "project", tune=TUNE)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Start a fork server for these tests."""
    with closing(Forks(clean_environment())) as forks:
        yield forks


def described(report: Path) -> dict[str, Any]:
    found = json.loads(report.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def test_a_command_can_not_tell_that_it_is_a_fork(project: Path, tmp_path: Path):
    """A forked command has the variables, arguments, files, signals and limits of a started one."""
    variables = {"COLOUR": "blue", "TZ": "Asia/Tokyo", "DATABASE_URL": "sqlite+aiosqlite://"}
    command = ("db", "create-schema")
    run_vibetuner(*command, folder=project, REPORT=str(tmp_path / "forked"), **variables)
    subprocess.run(
        [sys.executable, "-m", "vibetuner", *command],
        cwd=project,
        env=clean_environment(REPORT=str(tmp_path / "started"), **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )

    forked, started = described(tmp_path / "forked"), described(tmp_path / "started")
    assert forked == started
    assert forked["variables"]["COLOUR"] == "blue"
    assert "COLOUR" not in os.environ


def test_a_fork_has_the_limits_that_prlimit_gives(project: Path, tmp_path: Path):
    """A limit that is asked for holds in the fork from its start, as under `prlimit`."""
    limits = {"nofile": (200, 300), "data": (2 << 30, 2 << 30)}
    with vibetuner(
        *("db", "create-schema"),
        folder=project,
        log=tmp_path / "log",
        environment={"REPORT": str(tmp_path / "forked")},
        limits=limits,
    ) as command:
        command.process.wait(60)
    assert isinstance(command.process, Forked)
    assert command.process.returncode == 1, command.output  # there is no DATABASE_URL

    forked = described(tmp_path / "forked")["limits"]
    assert re.search(r"Max open files +(200|300) +300 ", forked), forked
    assert re.search(rf"Max data size +{2 << 30} +{2 << 30} ", forked), forked


def test_a_command_at_a_terminal_can_not_tell_that_it_is_a_fork(project: Path, tmp_path: Path):
    """A forked command at a terminal writes line by line, like one that was started."""
    command = ("-m", "vibetuner", "db", "create-schema")
    buffered = clean_environment(PYTHONUNBUFFERED="", DATABASE_URL="sqlite://")
    reports = [{"REPORT": str(tmp_path / name)} for name in ("forked", "started")]
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs) as terminal, closing(Forks(buffered)) as forks:
        number = terminal.fileno()
        forks.start(
            command, folder=project, environment=buffered | reports[0], files=[number] * 3
        ).wait(60)
        subprocess.run(
            [sys.executable, *command],
            cwd=project,
            env=buffered | reports[1],
            stdin=number,
            stdout=number,
            stderr=number,
            check=False,
        )

    forked, started = described(tmp_path / "forked"), described(tmp_path / "started")
    assert forked == started
    assert [stream[2:5] for stream in forked["streams"]] == [[True, False, True]] * 3


def test_a_fork_returns_output_errors_and_code(forks: Forks, tmp_path: Path):
    """A forked command returns output, errors and exit code, as `subprocess.run` does."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forks.run(
            ("-m", "vibetuner", *arguments),
            folder=tmp_path,
            environment=clean_environment(),
            seconds=60,
        )

    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("vibetuner ")
    refused = run("nope")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "No such command 'nope'" in refused.stderr


def test_a_program_may_be_given_as_text(forks: Forks, tmp_path: Path):
    """A fork runs a program given as text in the same namespace as `python -c`."""
    code = "import sys\nprint(__name__, sys.argv, [sys.path[0]], 'json' in globals())"
    environment = clean_environment()
    forked = forks.run(("-c", code, "a"), folder=tmp_path, environment=environment, seconds=60)
    assert forked.stdout == "__main__ ['-c', 'a'] [''] False\n"
    assert run_code(code, "a", folder=tmp_path).stdout == forked.stdout


ENDING = """
import atexit
import gc
import sys
import threading
import time


class Open:
    def __init__(self, name):
        self.name = name

    def __del__(self):
        print("left open:", self.name, time is None)
        if self.name == "broken":
            raise ValueError("can't close")


kept, broken, cycle = Open("kept"), Open("broken"), Open("cycle")
cycle.itself = cycle
gc.callbacks.append(lambda *_, kept_by_a_library=Open("of a library"): None)
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
"""


@pytest.mark.parametrize(
    "last",
    [
        "",
        "sys.exit(3)",
        "sys.exit(257)",
        "sys.exit(-1)",
        "sys.exit('no money')",
        "raise KeyError(1)",
        "sys.stdout.close()",
        "sys.stderr.close()",
        "import os; print('lost'); os.close(1)",
    ],
)
def test_a_fork_ends_as_a_started_process_ends(forks: Forks, tmp_path: Path, last: str):
    """A fork waits for threads, runs exit handlers, closes open objects and reports errors."""
    arguments, environment = ("-c", ENDING + last), clean_environment()
    forked = forks.run(arguments, folder=tmp_path, environment=environment, seconds=60)
    started = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert forked.returncode == started.returncode
    assert sorted(forked.stdout.splitlines()) == sorted(started.stdout.splitlines())
    assert reported(forked.stderr) == reported(started.stderr)


# A module that a library keeps is cleared while a thread still uses it.
DAEMON = """
import gc, sys, threading, time


class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.2)


def watch():
    while True:
        time.sleep(0.01)


slow = [Slow()]
slow.append(slow)
gc.callbacks.append(lambda *_, kept_by_a_library=sys.modules["__main__"]: None)
threading.Thread(target=watch, daemon=True).start()
"""


def test_a_fork_does_not_report_threads_that_outlive_it(forks: Forks, tmp_path: Path):
    """A fork's end silences threads that the interpreter would not let go on."""
    done = forks.run(("-c", DAEMON), folder=tmp_path, environment=clean_environment(), seconds=60)
    assert (done.returncode, done.stderr) == (0, "")


def reported(errors: str) -> list[str]:
    """Return the reported errors, without addresses of objects and lines of code."""
    lines = [re.sub(r" at 0x\w+", "", line) for line in errors.splitlines()]
    return sorted(line for line in lines if not line.startswith(("  ", "Traceback")))


def test_a_fork_ends_by_a_signal(project: Path, tmp_path: Path):
    """A fork that a signal kills has the exit code of a started process."""
    arguments = ("run", "dev", "frontend", "--port", str(free_port()))
    with vibetuner(*arguments, folder=project, log=tmp_path / "log", environment={}) as command:
        command.process.kill()
        assert command.process.wait(60) == -signal.SIGKILL


def test_a_fork_hears_a_signal_from_its_first_moment(forks: Forks, tmp_path: Path):
    """Ctrl-C ends a fork even before it has become a process of its own."""
    with (tmp_path / "log").open("wb") as log:
        command = forks.start(
            ("-m", "vibetuner", "run", "prod", "frontend"),
            folder=tmp_path,
            environment=clean_environment(),
            files=[log, log, log],
        )
    command.send_signal(signal.SIGINT)
    assert command.wait(20) in {130, -signal.SIGINT}


def test_what_is_read_at_the_start_needs_a_started_process(forks: Forks):
    """A variable that the interpreter reads at its start rules out a fork.

    Variables that neither the interpreter nor a library reads don't.
    """
    assert forks.suit(clean_environment(COLOUR="blue"))
    assert not forks.suit(clean_environment(PYTHONWARNINGS="error"))


def test_what_a_test_lets_processes_inherit_needs_a_started_process(forks: Forks):
    """A changed umask rules out a fork, which would have the server's umask."""
    mask = os.umask(0o077)
    try:
        assert not forks.suit(clean_environment())
    finally:
        os.umask(mask)
    assert forks.suit(clean_environment())


def test_the_first_thread_rules_out_no_fork_under_uv():
    """The first thread of a process does not rule out forks.

    `uv run` lets a process ignore glibc's own signals, which glibc handles from then on.
    """
    program = """
        from threading import Thread
        from tests.forks import _inherited
        before = _inherited()
        Thread(target=print).start()
        assert _inherited() == before
    """
    command = ("uv", "run", "--no-project", "--python", sys.executable, "python", "-c")
    done = subprocess.run(
        [*command, dedent(program)],
        cwd=Path(__file__).parents[1],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_fork_outlives_a_test_that_does_not_wait(forks: Forks, tmp_path: Path):
    """The fork server goes on after a test that did not wait for an exit code."""
    environment = clean_environment()
    with Path(os.devnull).open("r+b") as nothing:
        files = [nothing] * 3
        left = forks.start(VERSION, folder=tmp_path, environment=environment, files=files)
        left._connection.close()
    done = forks.run(VERSION, folder=tmp_path, environment=environment, seconds=60)
    assert done.returncode == 0
