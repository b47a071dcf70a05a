"""Restarts of ``vibetuner run dev`` after a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.waiting import eventually
from vibetuner.cli.launch import Program
from vibetuner.cli.supervisor import Supervisor

pytestmark = pytest.mark.process

Count = Callable[..., int]
Replace = Callable[[str], None]
# This program prints the watched file, and fails if the text is broken.
CODE = """
import pathlib, signal, sys, time
text = pathlib.Path({path!r}).read_text()
if text.startswith("endless"): signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("read", text, flush=True)
if text.startswith("killed"): signal.raise_signal(signal.SIGKILL)
sys.exit("error: no money") if text.startswith("broken") else time.sleep(60)
"""


@asynccontextmanager
async def supervised(file: Path, watch: Path) -> AsyncIterator[Replace]:
    """Run a supervised program that reads a file, and yield a function that replaces the file."""

    def replace(text: str) -> None:
        draft = file.with_name("draft")
        draft.write_text(text, "utf-8")
        draft.replace(file)  # as editors and `sed -i` do

    replace("first")
    code = CODE.format(path=str(file))
    supervisor = Supervisor([Program("web", ("-c", code))], watch=[watch], patience=1, pause=30)
    running = asyncio.create_task(supervisor.run())
    try:
        yield replace
    finally:
        supervisor._stop()
        await asyncio.wait_for(running, 30)


@pytest.fixture
def count(capfd: pytest.CaptureFixture[str]) -> Count:
    """Return a function that counts a text in the output; until it comes, it calls ``again``."""
    printed = ""

    def count(text: str, again: Callable[[], None] | None = None) -> int:
        nonlocal printed
        printed += capfd.readouterr().err
        if again and text not in printed:
            again()
        return printed.count(text)

    return count


async def test_each_change_of_the_env_file_restarts_the_programs(tmp_path: Path, count: Count):
    """Every change of .env restarts the programs, also after an editor has replaced the file."""
    async with supervised(tmp_path / ".env", tmp_path / ".env") as replace:
        await eventually(lambda: count("read first"))
        # No event reports that the watch has begun, so the file is replaced until a restart.
        await eventually(lambda: count("read second", lambda: replace("second")))
        for text in ("third", "fourth"):
            replace(text)
            await eventually(lambda text=text: count(f"read {text}"))


async def test_an_error_that_is_made_again_is_printed_again(tmp_path: Path, count: Count):
    """An error is printed after each change that causes it, even if its text is the same."""
    file = tmp_path / "code.py"
    async with supervised(file, tmp_path) as replace:
        await eventually(lambda: count("read first"))
        await eventually(lambda: count("error: no money", lambda: replace("broken")))
        replace("mended")
        await eventually(lambda: count("read mended"))
        replace("broken again")
        await eventually(lambda: count("error: no money") == 2)


async def test_a_program_that_does_not_end_is_killed_for_the_next_one(tmp_path: Path, count: Count):
    """A change restarts a program that ignores its signal, as in an endless loop of a handler."""
    file = tmp_path / "code.py"
    async with supervised(file, tmp_path) as replace:
        await eventually(lambda: count("read endless", lambda: replace("endless")))
        replace("mended")
        await eventually(lambda: count("read mended"))


async def test_any_number_of_broken_changes_is_waited_for(tmp_path: Path, count: Count):
    """The supervisor gives nobody up who saves broken code often, as an editor does by itself."""
    file = tmp_path / "code.py"
    async with supervised(file, tmp_path) as replace:
        await eventually(lambda: count("read first"))
        await eventually(lambda: count("error: no money", lambda: replace("broken")))
        for number in range(2, 10):
            replace(f"broken {number}")
            await eventually(lambda number=number: count("error: no money") == number)
        replace("mended")
        await eventually(lambda: count("read mended"))


async def test_a_change_ends_the_pause_after_a_kill(
    tmp_path: Path, count: Count, caplog: pytest.LogCaptureFixture
):
    """A killed program is started again at once when its code changes, without the pause."""
    caplog.set_level("INFO")
    file = tmp_path / "code.py"
    async with supervised(file, tmp_path) as replace:
        await eventually(lambda: count("read killed", lambda: replace("killed")))
        await eventually(lambda: "starting it again in 30 s" in caplog.text)
        replace("mended")
        await eventually(lambda: count("read mended"), seconds=20)
