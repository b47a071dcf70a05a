"""A watchdog, which ends a process whose event loop is blocked, but no suspended one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from vibetuner.tasks.watchdog import EXIT_CODE, _where, watching

BLOCKED = """
import asyncio, logging, time
from vibetuner.tasks.watchdog import watching

def blocking_step() -> None:
    print("blocked", flush=True)
    time.sleep(60)

async def main() -> None:
    async with watching(0.2):
        await asyncio.sleep(0)
        blocking_step()

logging.basicConfig()
asyncio.run(main())
"""
LOGGING = """
import asyncio, logging
from vibetuner.tasks.watchdog import watching

async def main() -> None:
    async with watching(0.2):
        while True:
            await asyncio.sleep(0)
            logging.warning("a line of a log that nobody reads")

logging.basicConfig()
asyncio.run(main())
"""
SUSPENDED = """
import asyncio, sys
from vibetuner.tasks.watchdog import watching

async def main() -> None:
    async with watching(0.2):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.sleep(0.3)
    print("went on", flush=True)

asyncio.run(main())
"""


def start(code: str) -> subprocess.Popen[str]:
    """Run code in a process with pipes."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)


def test_a_blocked_loop_ends_its_process_and_names_the_step():
    """A process whose loop is blocked logs the blocking step, and ends with its own exit code."""
    with start(BLOCKED) as process:
        out, error = process.communicate(timeout=60)
    assert (out, process.returncode) == ("blocked\n", EXIT_CODE)
    assert "the event loop is blocked for 0.2 s by <string>:7, blocking_step(); ending" in error


def test_a_loop_that_is_blocked_by_its_log_ends_its_process():
    """A process that waits for somebody to read its log ends, though it can't report that."""
    with start(LOGGING) as process:
        try:
            assert process.wait(timeout=60) == EXIT_CODE
        finally:
            process.kill()


def test_a_suspended_process_goes_on():
    """A process that was suspended, as by a laptop's sleep, is not taken for a blocked one."""
    with start(SUSPENDED) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        threading.Event().wait(0.5)  # longer than the loop may take
        os.kill(process.pid, signal.SIGCONT)
        out, error = process.communicate("go on\n", timeout=60)
    assert (out, error, process.returncode) == ("went on\n", "", 0)


@pytest.mark.parametrize("limit", [0, 60])
async def test_without_a_limit_there_is_no_watchdog(limit: float):
    """A limit starts a thread, which ends with the block, and a limit of 0 starts none."""

    def watchdogs() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "watchdog"]

    async with watching(limit):
        await asyncio.sleep(0)
        assert len(watchdogs()) == (1 if limit else 0)
    for one in watchdogs():
        one.join(60)
    assert not watchdogs()


def test_a_thread_without_a_line_of_the_project_has_none():
    """A thread in the standard library or a framework is reported without a line."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert thread.ident is not None
        assert _where(thread.ident) == "code outside the project"
    finally:
        stop.set()
        thread.join()
