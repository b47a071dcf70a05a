"""The check of words that `just lint` runs, and the hook that `just setup` installs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

SCRIPT = ROOT / "scripts" / "lint_words.py"
FAULTS = '''"""Whether it is so."""

# The task is given back.
def f():
    """Return it: {}."""


def g():
    """Its owner knows."""
'''


def test_each_fault_is_named_with_its_line(tmp_path: Path):
    """The check reports a docstring's first word, a retired word and a long paragraph by line."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "docs" / "glossary.md", tmp_path / "docs")
    (tmp_path / "docs" / "page.md").write_text(f"It is handed back.\n\n{'word ' * 91}\n")
    (tmp_path / "scripts" / "one.py").write_text(FAULTS.format("word " * 91))

    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == [
        "scripts/one.py:1",
        "scripts/one.py:3",
        "scripts/one.py:5",
        "scripts/one.py:9",
        "docs/page.md:1",
        "docs/page.md:3",
    ]


@pytest.mark.parametrize(
    ("subject", "code"),
    [("Requeue a message", 0), ("R" * 72, 0), ("R" * 73, 1), ("Requeue a message.", 1)],
)
def test_the_hook_refuses_a_subject_that_is_too_long(tmp_path: Path, subject: str, code: int):
    """The commit hook refuses a subject of over 72 characters, or one with a full stop."""
    message = tmp_path / "message"
    message.write_text(f"{subject}\n\nThe body may be as long as it likes.\n")
    done = subprocess.run(
        [ROOT / "scripts" / "hooks" / "commit-msg", message], cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip

    assert done.returncode == code, done.stderr
