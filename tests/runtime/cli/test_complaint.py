"""Errors and signals, and the exit codes that they lead to."""

from __future__ import annotations

import importlib
import py_compile
import sys
from pathlib import Path

import anyio
import pytest

from vibetuner.cli.complaint import complaining


@pytest.mark.parametrize(
    ("end", "code"), [(SystemExit(), 0), (SystemExit(3), 3), (KeyboardInterrupt(), 130)]
)
def test_a_signal_that_meets_a_start_in_a_task_group_ends_it(end: BaseException, code: int):
    """An exit or a Ctrl-C inside a task group ends the process with its exit code."""

    async def start() -> None:
        async with anyio.create_task_group():
            raise end

    with pytest.raises(SystemExit) as ended, complaining():
        anyio.run(start)

    assert (ended.value.code or 0) == code


def test_another_broken_pipe_than_the_output_is_reported(capsys: pytest.CaptureFixture[str]):
    """A broken pipe of a connection is reported, while Typer exits quietly for any broken pipe."""
    with pytest.raises(SystemExit) as ended, complaining():
        try:
            raise BrokenPipeError("the server has gone")
        except OSError:
            sys.exit(1)

    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: BrokenPipeError: the server has gone (set")


def test_a_compiled_file_that_is_cut_off_is_named_with_its_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A full disk cuts off a compiled file, and every later start would end with an EOFError."""
    source = tmp_path / "cut_off_module.py"
    source.write_text("TEXT = 'a module that a full disk has met'\n", encoding="utf-8")
    compiled = Path(py_compile.compile(str(source), doraise=True))
    compiled.write_bytes(compiled.read_bytes()[:40])
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended, complaining():
        importlib.import_module("cut_off_module")

    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "error: A compiled file of Python is cut off, perhaps by a full disk. Make room, and run:  "
        "find . -name '*.pyc' -delete\n"
    )
