"""Which event loop a process runs in."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys
{before}
from vibetuner.cli.event_loop import run_in_loop

async def name(stream):
    print(type(asyncio.get_running_loop()).__module__.split(".")[0], file=stream)

run_in_loop(name, sys.stdout)
"""


def loop_of(before: str = "") -> str:
    """The package of the loop that a process of its own runs in."""
    program = PROGRAM.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_uvloop_is_used_where_it_is_installed():
    """As it is here, with the ``speed`` extra."""
    assert loop_of() == "uvloop"


def test_without_uvloop_it_is_pythons_own():
    """Nothing needs the extra."""
    assert loop_of("sys.modules['uvloop'] = None  # as if it were not there") == "asyncio"
