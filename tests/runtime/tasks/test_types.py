"""A type checker knows of a task what it knows of the task's function."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import Mold
from tests.template import conftest as template

mold, plain = template.mold, template.plain

SNIPPET = Path(__file__).with_name("typed_tasks.py")


@pytest.mark.slow
def test_enqueue_keeps_the_signature_of_the_function(mold: Mold, tmp_path: Path):
    """mypy reports each wrong call in a generated project in strict mode, and no right one."""
    done = mold.check_types(SNIPPET, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_wrong_call_that_nobody_expects_is_an_error(mold: Mold, tmp_path: Path):
    """The type check fails with one error if a wrong call has no ``type: ignore``."""
    snippet = tmp_path / "typed_tasks.py"
    text = SNIPPET.read_text("utf-8")
    first, expected, rest = text.partition("  # type: ignore[")
    snippet.write_text(first + rest.partition("]")[2], "utf-8")
    done = mold.check_types(snippet, tmp_path)

    assert expected
    assert done.returncode == 1
    assert done.stdout.endswith("Found 1 error in 1 file (checked 1 source file)\n"), done.stdout
