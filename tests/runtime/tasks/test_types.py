"""Types survive decoration: what a type checker knows of a function, it knows of its task."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[3]
SNIPPET = Path(__file__).with_name("typed_tasks.py")


@pytest.mark.slow
def test_enqueue_keeps_the_signature_of_the_function(monkeypatch: pytest.MonkeyPatch):
    """Under mypy strict: right calls pass, and each wrong one is an error that is expected."""
    monkeypatch.chdir(ROOT)

    out, err, code = api.run(["--config-file", "pyproject.toml", str(SNIPPET)])

    assert code == 0, out + err
