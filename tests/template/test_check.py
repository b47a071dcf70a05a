"""A new project passes its own check, and again with everything that can be generated."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import Mold, render
from tests.processes import clean_environment
from tests.template.conftest import GIT_CONFIG, Repository, run
from tests.template.test_generators import generate, type_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, plain: Path, mold: Mold) -> Repository:
    """Install one project for all tests, and commit it."""
    place = tmp_path_factory.mktemp("check")
    (place / "gitconfig").write_text(GIT_CONFIG, encoding="utf-8")
    environment = clean_environment(
        GIT_CONFIG_GLOBAL=str(place / "gitconfig"), UV_NO_GITHUB_FAST_PATH="1"
    )
    project = Repository(place / "my-project", environment)
    render(plain, project.folder)
    project.git("init", "--quiet")
    mold.lend(project.folder, lock=True)
    uv(project, "sync", "--quiet")
    project.commit("Start")
    return project


@pytest.fixture
def project(installed: Repository) -> Iterator[Repository]:
    """Yield the project as it was committed, and reset it after the test."""
    yield installed
    installed.git("reset", "--quiet", "--hard")
    installed.git("clean", "--quiet", "--force", "-d")


def test_a_fresh_project_passes_its_own_check_and_stays_as_it_is(project: Repository):
    """A new project passes the commands that AGENTS.md lists, and formatting changes no file."""
    uv(project, "run", "just", "format")
    uv(project, "run", "just", "format", "-q")
    assert project.git("status", "--porcelain") == ""

    text = (project.folder / "AGENTS.md").read_text("utf-8")
    [block] = re.findall(r"(?s)```bash\n(.+?)```", text)
    # The project's tests run once, in `just check`.
    quick = {"uv run just test -q": {"PYTEST_ADDOPTS": "--markers"}}
    printed = {
        line: uv(project, *shlex.split(line)[1:], **quick.get(line, {}))
        for line in block.splitlines()
    }

    assert "passed" not in printed["uv run just test -q"]
    checked = printed["uv run just check"]
    assert re.search(r"\b[4-9]\d passed", checked), checked
    assert "failed" not in checked
    assert project.git("status", "--porcelain", "src/my_project/tune.py") == ""


def test_all_that_can_be_generated_passes_the_check(project: Repository):
    """A project with everything that can be generated passes `just check`, tests included."""
    fresh = [path.relative_to(project.folder) for path in project.folder.glob("tests/test_*.py")]
    uv(project, "add", "--quiet", "argon2-cffi")
    generate(project.folder)
    ignored = " ".join(f"--ignore={path}" for path in fresh if path.name != "test_signup.py")
    checked = uv(project, "run", "just", "check", PYTEST_ADDOPTS=ignored)

    assert " passed" in checked
    for name in (
        "test_plain_one.py",
        "test_statements.py",
        "test_reports.py",
        "test_invoice.py",
        "test_note.py",
        "test_auth.py",
    ):
        assert name in checked


def test_a_project_without_the_example_passes_the_check(
    tmp_path: Path, plain: Path, mold: Mold, project: Repository
):
    """A project without the example passes `just check`, with a generated batch."""
    bare = Repository(tmp_path / "my-project", project.environment)
    render(plain, bare.folder, example=False)
    mold.lend(bare.folder, lock=True)
    type_all(bare.folder, [["new", "batch", "statements"]])
    checked = uv(bare, "run", "just", "check")

    assert "6 passed" in checked


def uv(project: Repository, *arguments: str, **variables: str) -> str:
    """Return the output of a command of uv."""
    environment = project.environment | variables
    done = run("uv", *arguments, cwd=project.folder, environment=environment, seconds=900)
    return done.stdout
