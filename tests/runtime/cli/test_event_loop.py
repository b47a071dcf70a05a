"""The event loop of a process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys
{before}
from vibetuner.cli.complaint import run_in_loop

async def name(stream):
    print(type(asyncio.get_running_loop()).__module__.split(".")[0], file=stream)

run_in_loop(name, sys.stdout)
"""


def loop_of(before: str = "") -> str:
    """Return the package of the event loop that a process of its own runs in."""
    program = PROGRAM.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_uvloop_is_used_where_it_is_installed():
    """A process runs in uvloop if the ``speed`` extra is installed, as it is here."""
    assert loop_of() == "uvloop"


def test_without_uvloop_it_is_pythons_own():
    """A process without uvloop runs in asyncio's own event loop."""
    assert loop_of("sys.modules['uvloop'] = None  # as if it were not there") == "asyncio"
