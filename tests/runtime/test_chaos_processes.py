"""The end of a storm that is stopped by a signal."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

STORM = """
import asyncio
import sys
from chaos.processes import run_until_signal

async def storm():
    try:
        print("began", flush=True)
        await asyncio.sleep(60)
    finally:
        print("ended its processes", flush=True)

try:
    run_until_signal(storm())
except asyncio.CancelledError:
    sys.exit(130)
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_storm_in_the_background_of_a_shell_can_be_stopped(number: signal.Signals):
    """A signal ends the run's processes first, although a shell lets its jobs ignore SIGINT."""
    process = subprocess.Popen(
        [sys.executable, "-c", STORM],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("ended its processes\n", None)
    assert process.returncode == 130
