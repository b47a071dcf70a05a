"""`vibetuner destroy example` leaves a project that equals one made without the example."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from copier import run_copy

from tests.processes import run_vibetuner
from tests.template.conftest import Repository, make_repository, rendered_files
from tests.template.test_update import start, update

pytestmark = pytest.mark.slow

ANSWERS = ".copier-answers.yml"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Release the template as v0.9.0 and, with another example, v0.9.1; make a project."""
    repository = make_repository(tmp_path_factory.mktemp("example"), runtime=False)
    start(repository, repository.folder.with_name("my-project"))
    path = repository.folder / "template/src/{{ package_name }}/outages.py"
    path.write_text(path.read_text("utf-8") + "\n# new in v0.9.1\n", "utf-8")
    repository.commit("Next", tag="v0.9.1")
    return repository


@pytest.fixture
def project(repository: Repository, tmp_path: Path) -> Repository:
    """Copy the project for this test."""
    made = repository.folder.with_name("my-project")
    shutil.copytree(made, tmp_path / "my-project", symlinks=True)
    return Repository(tmp_path / "my-project", repository.environment)


def test_a_project_as_made_without_the_example_is_left(
    project: Repository, repository: Repository, tmp_path: Path
):
    """After an update, `destroy example` leaves each file as in a project made without it."""
    update(project)
    project.commit("Update")
    done = destroy(project)

    assert done.returncode == 0, done.stderr
    fresh = tmp_path / "fresh" / "my-project"
    run_copy(str(repository.folder), fresh, {"example": False}, defaults=True, quiet=True)
    after = rendered_files(project.folder, without=".git")
    assert after == rendered_files(fresh)
    assert "\nexample: false\n" in after[ANSWERS]

    project.commit("Without")
    again = destroy(project)
    assert again.returncode == 1
    assert "error: There is no example: this project is one without" in again.stderr


def test_the_examples_tables_are_dropped_before_its_migration_goes(project: Repository):
    """`destroy example` is refused while the database has the example's tables.

    A database at an unknown revision could not be migrated any more.
    """
    env = "DATABASE_URL=sqlite:///.vibetuner/app.db\n"
    (project.folder / ".env").write_text(env, "utf-8")
    upgraded = vibetuner(project, "db", "upgrade")
    refused = destroy(project)
    downgraded = vibetuner(project, "db", "downgrade", "base")

    assert (upgraded.returncode, downgraded.returncode) == (0, 0), (
        upgraded.stderr + downgraded.stderr
    )
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: The database has the example's tables, whose migration would go. Drop them:  "
        "vibetuner db downgrade base\n"
    )
    assert destroy(project).returncode == 0
    assert not list(project.folder.glob("src/*/migrations/versions/*.py"))


def test_what_was_changed_is_named_and_nothing_is_removed(project: Repository):
    """`destroy example` is refused if a file was changed; --skip keeps it and removes the rest.

    A changed README.md is no obstacle, nor is a file of the example that is not there any more.
    """
    shutil.rmtree(project.folder / "src/my_project/templates")
    (project.folder / "README.md").write_text("mine\n", "utf-8")
    changed = project.folder / "src/my_project/outages.py"
    changed.write_text("# mine\n", "utf-8")
    project.commit("Make it mine")
    refused = destroy(project)
    assert refused.returncode == 1
    assert "Changed since it was generated: src/my_project/outages.py. --force" in refused.stderr
    assert project.git("status", "--porcelain") == ""

    done = destroy(project, "--skip")
    assert done.returncode == 0, done.stderr
    assert changed.read_text("utf-8") == "# mine\n"
    assert (project.folder / "README.md").read_text("utf-8") == "mine\n"
    assert not (project.folder / "src/my_project/exports.py").exists()
    assert not (project.folder / "src/my_project/templates/exports.html").exists()
    assert (project.folder / "src/my_project/templates/home.html").is_file()


def test_without_a_commit_nothing_is_removed(project: Repository):
    """`destroy example` is refused while a file is not committed, as there is no way back."""
    (project.folder / "draft.txt").touch()
    refused = destroy(project)

    assert refused.returncode == 1
    assert "error: Commit or stash your changes first (draft.txt)" in refused.stderr


def destroy(project: Repository, *options: str) -> subprocess.CompletedProcess[str]:
    return vibetuner(project, "destroy", "example", *options)


def vibetuner(project: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_vibetuner(*arguments, folder=project.folder, seconds=300, **project.environment)
