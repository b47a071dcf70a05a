"""A fresh project, checked by its own means."""

from __future__ import annotations

from pathlib import Path

import pytest
from copier import run_copy

from tests.processes import clean_environment
from tests.template.conftest import GIT_CONFIG, Repository, run

pytestmark = pytest.mark.slow


def test_a_fresh_project_passes_its_own_check_and_stays_as_it_is(plain: Path, tmp_path: Path):
    """Installed, formatted, linted, typed and tested with nothing running, without a diff."""
    (tmp_path / "gitconfig").write_text(GIT_CONFIG, encoding="utf-8")
    environment = clean_environment(
        GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"), UV_NO_GITHUB_FAST_PATH="1"
    )
    project = Repository(tmp_path / "my-project", environment)
    run_copy(str(plain), project.folder, defaults=True, quiet=True, unsafe=False)
    project.git("init", "--quiet")
    uv = {"cwd": project.folder, "environment": environment, "seconds": 600}
    run("uv", "sync", "--quiet", **uv)
    project.commit("Start")

    checked = run("uv", "run", "just", "check", **uv)
    formatted = run("uv", "run", "just", "format", **uv)

    assert " passed" in checked.stdout
    assert "failed" not in checked.stdout
    assert project.git("status", "--porcelain") == ""
    assert formatted.returncode == 0
