"""`just template-update`: what is new, the update, the check, and the way back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.template.conftest import Repository, run
from tests.template.test_runtime_source import answers, source
from tests.template.test_update import start

pytestmark = pytest.mark.slow

CHANGELOG = """# Changelog

## [Unreleased]

## [0.9.1] - 2026-12-01

- Recipes that sing.

## [0.9.0] - 2026-11-01

- A beginning.
"""


@pytest.fixture
def project(repository: Repository, tmp_path: Path) -> Repository:
    """An installed project of v0.9.0, with a check of its own that is quick."""
    project = start(repository, tmp_path / "my-project")
    with (project.folder / "justfile").open("a", encoding="utf-8") as file:
        file.write("\ncheck:\n    @test ! -e broken && echo checked\n")
    run("uv", "sync", "--quiet", cwd=project.folder, environment=project.environment, seconds=600)
    project.commit("Make it mine")
    (repository.folder / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    with (repository.folder / "template/.just/run.just").open("a", encoding="utf-8") as file:
        file.write("\n# new in v0.9.1\n")
    repository.commit("Next", tag="v0.9.1")
    return project


def test_an_update_from_one_version_to_the_next(project: Repository, repository: Repository):
    """A dirty tree is refused; then news, files, runtime and check; then nothing is newer."""
    (project.folder / "draft.txt").touch()
    refused = template_update(project)
    (project.folder / "draft.txt").unlink()
    done = template_update(project)

    assert refused.returncode == 1
    assert "error: Commit or stash your changes first (draft.txt)" in refused.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert "go from v0.9.0 to v0.9.1" in done.stdout
    assert "Recipes that sing." in done.stdout
    assert "A beginning." not in done.stdout
    assert "checked" in done.stdout
    assert "git reset --hard && git clean --force -d && uv sync" in done.stderr
    rev = repository.git("rev-parse", "v0.9.1")
    assert answers(project.folder)["_commit"] == "v0.9.1"
    assert source(project.folder)["rev"] == rev
    assert rev in (project.folder / "uv.lock").read_text("utf-8")

    project.commit("Update the template")
    again = template_update(project)
    assert again.returncode == 0
    assert "v0.9.1 is the newest version already." in again.stdout
    assert project.git("status", "--porcelain") == ""


def test_a_check_that_fails_tells_the_way_back(project: Repository):
    """Which leads to where one was, to the byte."""
    (project.folder / "broken").touch()
    project.commit("Break the check")
    head = project.git("rev-parse", "HEAD")
    failed = template_update(project)

    assert failed.returncode != 0
    [way_back] = [line.strip() for line in failed.stderr.splitlines() if "git reset" in line]
    run("sh", "-c", way_back, cwd=project.folder, environment=project.environment, seconds=600)
    assert project.git("status", "--porcelain") == ""
    assert project.git("rev-parse", "HEAD") == head
    assert answers(project.folder)["_commit"] == "v0.9.0"


def template_update(project: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["uv", "run", "just", "template-update", *arguments],
        cwd=project.folder,
        env=project.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
