"""`just release`: a version, a dated changelog, a commit and a tag."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.conftest import ROOT, Repository, make_repository

CHANGELOG = """# Changelog

## [Unreleased]

- Sings.

## [0.9.0] - 2026-11-01

- Begins.

[Unreleased]: https://x/compare/v0.9.0...HEAD
[0.9.0]: https://x/releases/tag/v0.9.0
"""


@pytest.fixture
def here(tmp_path: Path) -> Repository:
    """Make a repository like this one, with something to release."""
    repository = make_repository(tmp_path, runtime=False)
    for name in ("pyproject.toml", "scripts/release.py", "runtime/src/vibetuner/__init__.py"):
        (repository.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (repository.folder / name).write_bytes((ROOT / name).read_bytes())
    (repository.folder / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    repository.commit("News")
    return repository


def release(here: Repository, version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/release.py", version, "--no-tests"],
        cwd=here.folder, env=here.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_release_is_one_commit_and_one_tag(here: Repository):
    """A release writes its version to project, package and changelog, in one tagged commit."""
    done = release(here, "0.10.0")

    assert done.returncode == 0, done.stderr
    assert "git push origin HEAD v0.10.0" in done.stdout
    assert here.git("describe", "--exact-match") == "v0.10.0"
    assert here.git("status", "--porcelain") == ""
    package = here.folder / "runtime" / "src" / "vibetuner" / "__init__.py"
    assert '\nversion = "0.10.0"' in (here.folder / "pyproject.toml").read_text("utf-8")
    assert '\n__version__ = "0.10.0"' in package.read_text("utf-8")
    text = (here.folder / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]\n\n## [0.10.0] - 20" in text
    assert "[Unreleased]: https://x/compare/v0.10.0...HEAD\n[0.10.0]: https://x/" in text


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("1", "a version is X.Y.Z"),
        ("0.9.0", "v0.9.0 is there already"),
        ("0.8.9", "0.8.9 is not newer"),
        ("0.9.0rc1", "0.9.0rc1 is not newer"),
    ],
)
def test_what_is_no_new_version_is_refused(here: Repository, version: str, message: str):
    """A version that is malformed, exists or is not newer is refused, and nothing is changed."""
    refused = release(here, version)

    assert refused.returncode == 1
    assert message in refused.stderr
    assert here.git("status", "--porcelain") == ""
    assert here.git("tag") == "v0.9.0"


def test_without_news_there_is_no_release(here: Repository):
    """A release is refused if the changelog has no line under [Unreleased]."""
    changelog = here.folder / "CHANGELOG.md"
    changelog.write_text(CHANGELOG.replace("- Sings.\n\n", ""), encoding="utf-8")
    here.commit("Silence")

    assert "says nothing under [Unreleased]" in release(here, "0.10.0").stderr


def test_a_dirty_tree_is_refused(here: Repository):
    """A release is refused while a file is not committed."""
    Path(here.folder / "draft").touch()

    assert "something is not committed" in release(here, "0.10.0").stderr
