"""`just template-update`: what is new, the update, the check, and the way back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.environments import Mold
from tests.template.conftest import Repository, make_repository, run
from tests.template.test_runtime_source import answers, source
from tests.template.test_update import start

pytestmark = pytest.mark.slow

TEMPLATE_UPDATE = ("uv", "run", "just", "template-update")
CHANGELOG = """# Changelog

## [Unreleased]

## [0.9.1] - 2026-12-01

- Recipes that sing.

## [0.9.0] - 2026-11-01

- A beginning.
"""


# The check is one process, so that Ctrl-C reaches it at any moment.
CHECK = """
check:
    @test ! -e broken && exec python -c 'import os, time; print("checked", flush=True); \
        time.sleep(float(os.environ.get("PAUSE", "0")))'
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Make a repository of the template at v0.9.0."""
    return make_repository(tmp_path_factory.mktemp("update"))


@pytest.fixture(scope="module")
def installed(repository: Repository, mold: Mold) -> Repository:
    """Install a project of v0.9.0 with a quick check of its own, and release v0.9.1."""
    project = start(repository, repository.folder.parent / "my-project")
    with (project.folder / "justfile").open("a", encoding="utf-8") as file:
        file.write(CHECK)
    mold.lend(project.folder)
    sync(project)
    images = project.folder / "compose.images.yml"
    images.write_text(images.read_text("utf-8").replace("mongo:8@", "mongo:8-noble@"), "utf-8")
    project.commit("Make it mine", tag="mine")
    images = repository.folder / "template" / "compose.images.yml"
    images.write_text(images.read_text("utf-8").replace("mongo:8@", "mongo:9@"), "utf-8")
    (repository.folder / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    for name in (".just/run.just", "Dockerfile"):
        with (repository.folder / "template" / name).open("a", encoding="utf-8") as file:
            file.write("\n# new in v0.9.1\n")
    repository.commit("Next", tag="v0.9.1")
    return project


@pytest.fixture
def project(installed: Repository) -> Repository:
    """Reset the project to its state before any update."""
    installed.git("reset", "--quiet", "--hard", "mine")
    installed.git("clean", "--quiet", "--force", "-d")
    sync(installed)
    return installed


def test_an_update_from_one_version_to_the_next(project: Repository, repository: Repository):
    """An update refuses a dirty tree and an unknown version.

    Then it shows the news, updates files and runtime, and runs the check; packages of extras and
    the project's images stay as they are. Afterwards, nothing is newer.
    """
    (project.folder / "draft.txt").touch()
    refused = template_update(project)
    (project.folder / "draft.txt").unlink()
    unknown = template_update(project, "v9.9.9")
    extra = add_extra(project)
    done = template_update(project)

    assert refused.returncode == 1
    assert "error: Commit or stash your changes first (draft.txt)" in refused.stderr
    assert unknown.returncode == 1
    assert "error: The template has no version v9.9.9; the newest is v0.9.1" in unknown.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert "go from v0.9.0 to v0.9.1" in done.stdout
    assert "Recipes that sing." in done.stdout
    assert "A beginning." not in done.stdout
    assert "checked" in done.stdout
    assert "git reset --hard && git clean --force -d && uv sync" in done.stderr
    assert extra.is_dir()
    rev = repository.git("rev-parse", "v0.9.1")
    assert answers(project.folder)["_commit"] == "v0.9.1"
    assert f"@{rev}#" in source(project.folder)
    assert rev in (project.folder / "uv.lock").read_text("utf-8")
    assert "mongo:8-noble@" in (project.folder / "compose.images.yml").read_text("utf-8")

    project.commit("Update the template")
    again = template_update(project)
    assert again.returncode == 0
    assert "The project has v0.9.1 already, the newest version." in again.stdout
    assert project.git("status", "--porcelain") == ""


def test_a_check_that_fails_tells_the_way_back_and_on(project: Repository, tmp_path: Path):
    """A failed check names the commands that undo the update, and those that complete it."""
    (project.folder / "broken").touch()
    project.commit("Break the check")
    head = project.git("rev-parse", "HEAD")
    failed = template_update(project)

    assert failed.returncode != 0
    assert "To go on, fix what the check has reported, then:\n    uv run just check && git add" in (
        failed.stderr
    )
    with as_it_stands(project, tmp_path):
        assert_way_back_leads_to(head, project, failed.stderr)
    (project.folder / "broken").unlink()
    keep(project, failed.stderr)


def test_lines_that_both_have_changed_are_named_with_what_to_do(
    project: Repository, tmp_path: Path
):
    """Lines that both sides have changed are named with the commands to undo and to complete."""
    with (project.folder / "Dockerfile").open("a", encoding="utf-8") as file:
        file.write("\n# mine\n")
    project.commit("Edit the end")
    head = project.git("rev-parse", "HEAD")
    clashed = template_update(project)

    assert clashed.returncode == 1
    assert "have changed the same lines of Dockerfile\n" in clashed.stderr
    assert "# mine\n=======\n# new in v0.9.1" in (project.folder / "Dockerfile").read_text("utf-8")
    again = template_update(project)
    assert "error: Lines of Dockerfile are in conflict: choose one side of each" in again.stderr
    with as_it_stands(project, tmp_path):
        assert_way_back_leads_to(head, project, clashed.stderr)
    (project.folder / "Dockerfile").write_text("# ours\n", encoding="utf-8")
    keep(project, clashed.stderr)


def test_ctrl_c_in_the_middle_tells_the_way_back(project: Repository):
    """Ctrl-C during the check ends the update, and names the command that undoes it."""
    head = project.git("rev-parse", "HEAD")
    process = subprocess.Popen(
        TEMPLATE_UPDATE,
        cwd=project.folder,
        env=project.environment | {"PAUSE": "600"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert "checked\n" in iter(process.stdout.readline, "")
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 130
    assert_way_back_leads_to(head, project, stderr)


def add_extra(project: Repository) -> Path:
    """Install a package that is in no group, as `uv sync --extra postgres` does."""
    [packages] = project.folder.glob(".venv/lib/python*/site-packages")
    folder = packages / "an_extra-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: an-extra\nVersion: 1.0\n")
    (folder / "RECORD").write_text(
        "".join(f"{folder.name}/{n},,\n" for n in ("METADATA", "RECORD"))
    )
    return folder


@contextmanager
def as_it_stands(project: Repository, place: Path) -> Iterator[None]:
    """Restore every file after the block, git's included; the environment follows the files."""
    shutil.copytree(project.folder, place / "aside", ignore=shutil.ignore_patterns(".venv"))
    yield
    for path in project.folder.iterdir():
        if path.name != ".venv":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(place / "aside", project.folder, dirs_exist_ok=True)


def keep(project: Repository, stderr: str) -> None:
    """Run the command that completes the update, and assert that everything is committed."""
    [way_on] = [line.strip() for line in stderr.splitlines() if "git commit" in line]
    run("sh", "-c", way_on, cwd=project.folder, environment=project.environment, seconds=600)
    assert project.git("status", "--porcelain") == ""
    assert answers(project.folder)["_commit"] == "v0.9.1"
    [address] = {*re.findall(r"rev=([0-9a-f]{40})", project.git("show", "HEAD:uv.lock"))}
    assert f"@{address}#" in source(project.folder)


def assert_way_back_leads_to(commit: str, project: Repository, stderr: str) -> None:
    [way_back] = [line.strip() for line in stderr.splitlines() if "git reset" in line]
    run("sh", "-c", way_back, cwd=project.folder, environment=project.environment, seconds=600)
    assert project.git("status", "--porcelain") == ""
    assert project.git("rev-parse", "HEAD") == commit
    assert answers(project.folder)["_commit"] == "v0.9.0"


def template_update(project: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TEMPLATE_UPDATE, *arguments],
        cwd=project.folder,
        env=project.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def sync(project: Repository) -> None:
    run("uv", "sync", "--quiet", cwd=project.folder, environment=project.environment, seconds=600)
