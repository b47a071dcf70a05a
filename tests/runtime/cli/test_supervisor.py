"""The supervisor: its lines, exit codes and restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import children_of
from tests.waiting import eventually
from vibetuner.cli.launch import Program
from vibetuner.cli.supervisor import Supervisor

PRINT = "import sys; sys.stdout.{}"
PAUSES = ("0.002", "0.004", "0.008", "0.016", "0.032")


def program(code: str, name: str = "web") -> Program:
    return Program(name, ("-c", code))


async def run(*programs: Program, label: bool = True, pause: float = 0.5) -> int:
    return await Supervisor(programs, label=label, pause=pause).run()


async def test_what_cannot_start_ends_everything_with_its_exit_code(
    capfd: pytest.CaptureFixture[str],
):
    """A program that can't start ends the others, and its exit code becomes the supervisor's."""
    code = await run(
        program("import sys; sys.exit('error: no money')"),
        program("import time; time.sleep(3600)", "worker"),
    )

    assert code == 1
    assert "web    | error: no money\n" in capfd.readouterr().err


async def test_a_process_that_is_left_behind_does_not_hold_up_a_restart(
    capfd: pytest.CaptureFixture[str],
):
    """A program ends when its process ends, even if a child of it still has the output open."""
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('last words'); sys.exit(4)"
    )
    assert await asyncio.wait_for(run(program(code)), 30) == 4
    assert "last words\n" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["web", "worker"])
async def test_what_ends_without_a_word_is_named(caplog: pytest.LogCaptureFixture, name: str):
    """A program that ends without a line, as by ``os._exit()``, is logged with its exit code."""
    caplog.set_level("INFO")
    programs = {one: program("import time; time.sleep(3600)", one) for one in ("web", "worker")}
    programs[name] = program("import os; os._exit(7)", name)

    assert await run(*programs.values()) == 7
    assert caplog.messages == [f"{name} ended with exit code 7; stopping"]


async def test_an_error_that_several_have_is_printed_once(capfd: pytest.CaptureFixture[str]):
    """An error that several programs print is printed once."""
    failing = "import sys; sys.exit('error: no money')"
    await run(program(failing), program(failing, "worker"))

    assert capfd.readouterr().err.count("error: no money") == 1


@pytest.mark.parametrize("size", [1, 200_000])
async def test_no_line_is_too_long_and_none_is_lost(capfd: pytest.CaptureFixture[str], size: int):
    """A line of any length, without an end or with invalid bytes, is printed whole."""
    code = PRINT.format(f"buffer.write(b'x' * {size} + bytes([10]) + b'last ' + bytes([255]))")

    await run(program(code + "; sys.exit(3)"), label=False)

    printed = capfd.readouterr().err
    assert printed.replace("\n", "") == "x" * size + "last \ufffd"
    assert printed.endswith("last \ufffd\n")


async def test_a_killed_program_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A killed program is started again.

    If it fails each time after that, the supervisor waits longer each time, and gives up.
    """
    caplog.set_level("INFO")
    trace = tmp_path / "begun"
    code = (
        f"import os, pathlib, signal, sys; trace = pathlib.Path({str(trace)!r})\n"
        "if trace.exists(): sys.exit(4)\n"
        "trace.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )

    assert await run(program(code), pause=0.001) == 4

    failed = [f"web ended with exit code 4; starting it again in {n} s" for n in PAUSES]
    assert caplog.messages == [
        "web was ended by SIGKILL; starting it again in 0.001 s",
        *failed,
        "web ended with exit code 4, 7 times in a row; giving up",
    ]


async def test_a_killed_program_is_started_again_in_development_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """In development, a killed program is started again without a change of the code."""
    trace = tmp_path / "begun"
    code = (
        f"import os, pathlib, signal, time; trace = pathlib.Path({str(trace)!r})\n"
        "if not trace.exists(): trace.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    )
    supervisor = Supervisor([program(code, "worker")], watch=[tmp_path])

    assert await asyncio.wait_for(supervisor.run(), 30) == 0
    assert "waiting for a change" not in capfd.readouterr().err


async def test_nohup_keeps_the_supervisor_from_ending_with_its_terminal():
    """A supervisor that was started with SIGHUP ignored, as by `nohup`, goes on ignoring it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code = "import os, signal, time; os.kill(os.getppid(), signal.SIGHUP); time.sleep(0.5)"
        assert await run(program(f"{code}; os._exit(7)")) == 7
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_supervisor_that_fails_leaves_no_program(tmp_path: Path):
    """An error of the supervisor itself ends its programs."""
    watched = tmp_path / "missing" / "file"
    supervisor = Supervisor([program("import time; time.sleep(600)")], watch=[watched])
    before = len(children_of(os.getpid()))
    with pytest.raises(ExceptionGroup):
        await supervisor.run()
    await eventually(lambda: len(children_of(os.getpid())) <= before)


def test_the_supervisor_polls_where_no_watches_are_left(tmp_path: Path):
    """A change restarts the programs, also where other programs have all of a user's watches."""
    (tmp_path / "begun").touch()
    code = (
        "import os, pathlib, signal, time; begun = pathlib.Path('begun')\n"
        "if begun.read_text(): os.kill(os.getppid(), signal.SIGTERM)\n"
        "begun.write_text('once')\n"
        "while True: time.sleep(0.1); pathlib.Path('watched.py').touch()"
    )
    script = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from vibetuner.cli.launch import Program\n"
        "from vibetuner.cli.supervisor import Supervisor\n"
        "try:\n"
        "    Path('/proc/sys/user/max_inotify_instances').write_text('0')\n"
        "except OSError:\n"
        "    sys.exit(99)\n"
        f"programs = [Program('web', ('-c', {code!r}))]\n"
        "sys.exit(asyncio.run(Supervisor(programs, watch=[Path.cwd()]).run()))"
    )
    ended = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", script],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if ended.returncode == 99 or "unshare: " in ended.stderr:
        pytest.skip("no user namespace with limits of its own")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith("polling for changes (")


def test_the_supervisor_stops_in_order_when_its_output_is_closed(tmp_path: Path):
    """The supervisor stops in order if its output is closed, as after ``2>&1

    head -1``.

    Its programs get their signal and their time.
    """
    trace = tmp_path / "stopped"
    code = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        f"    pathlib.Path({str(trace)!r}).touch()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "while True:\n"
        "    print('line', flush=True); time.sleep(0.05)"
    )
    script = (
        "import asyncio, sys\n"
        "from vibetuner.cli.launch import Program\n"
        "from vibetuner.cli.supervisor import Supervisor\n"
        f"sys.exit(asyncio.run(Supervisor([Program('web', ('-c', {code!r}))]).run()))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.readline() == b"line\n"
        process.stderr.close()

        assert process.wait(60) == 141
    assert trace.exists()
