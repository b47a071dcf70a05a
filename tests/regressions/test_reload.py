"""Restarts of ``vibetuner run dev`` after a change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.waiting import eventually
from vibetuner.cli.program import Program
from vibetuner.cli.supervisor import Supervisor

pytestmark = pytest.mark.process

Replace = Callable[[str], None]
# Prints the watched file, and fails if it is broken.
CODE = """
import pathlib, sys, time
text = pathlib.Path({path!r}).read_text()
print("read", text, flush=True)
sys.exit("error: no money") if text.startswith("broken") else time.sleep(60)
"""


@asynccontextmanager
async def supervised(file: Path, watch: Path) -> AsyncIterator[Replace]:
    """Run a program that reads the file, beside the one that replaces it once it is watched."""

    def replace(text: str) -> None:
        draft = file.with_name("draft")
        draft.write_text(text, "utf-8")
        draft.replace(file)  # as editors and `sed -i` do

    replace("first")
    code = CODE.format(path=str(file))
    supervisor = Supervisor([Program("web", ("-c", code))], watch=[watch])
    running = asyncio.create_task(supervisor.run())
    try:
        yield replace
    finally:
        supervisor._stop()
        await asyncio.wait_for(running, 30)


async def test_each_change_of_the_env_file_restarts_the_programs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """A change may put a new file in the place of the watched one; the next one counts, too."""
    printed = ""

    def has_read(text: str, again: Replace | None = None) -> bool:
        nonlocal printed
        printed += capfd.readouterr().err
        if again and f"read {text}" not in printed:
            again(text)
        return f"read {text}" in printed

    async with supervised(tmp_path / ".env", tmp_path / ".env") as replace:
        await eventually(lambda: has_read("first"))
        # Nothing tells when the file is watched.
        await eventually(lambda: has_read("second", replace))
        for text in ("third", "fourth"):
            replace(text)
            await eventually(lambda text=text: has_read(text))


async def test_an_error_that_is_made_again_is_printed_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """One line is enough for all programs, but not for all changes."""
    printed = ""

    def count(text: str, again: Callable[[], None] | None = None) -> int:
        nonlocal printed
        printed += capfd.readouterr().err
        if again and text not in printed:
            again()
        return printed.count(text)

    file = tmp_path / "code.py"
    async with supervised(file, tmp_path) as replace:
        await eventually(lambda: count("read first"))
        await eventually(lambda: count("error: no money", lambda: replace("broken")))
        replace("mended")
        await eventually(lambda: count("read mended"))
        replace("broken again")
        await eventually(lambda: count("error: no money") == 2)
