"""The runtime of a project has the version of the template that made the project."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from copier import run_copy
from copier.errors import DirtyLocalWarning

from tests.environments import render
from tests.processes import clean_environment
from tests.template.conftest import Repository, make_repository, rendered_files, run

GITHUB = "https://github.com/org/vibetuner-template.git"
SUBDIRECTORY = "#subdirectory=runtime"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Make a repository of the template with a release and a later commit, without the runtime."""
    return make_repository(tmp_path, runtime=False)


@pytest.fixture
def github(repository: Repository, tmp_path: Path) -> Repository:
    """Return ``repository``, which git also finds at its GitHub address, by both protocols."""
    settings = tmp_path / "gitconfig"
    with settings.open("a", encoding="utf-8") as file:
        file.write(f'[url "{file_url(repository.folder)}"]\n')
        file.write(f"insteadOf = {GITHUB}\n")
        file.write("insteadOf = git@github.com:org/vibetuner-template.git\n")
        file.write("insteadOf = ssh://git@github.com/org/vibetuner-template.git\n")
    return repository


def test_from_github_it_is_the_latest_release(github: Repository, tmp_path: Path):
    """`copier copy gh:…`, as in the README, installs the runtime of the latest release."""
    project = tmp_path / "my-project"
    output = github.copy("gh:org/vibetuner-template", project).stderr

    assert source(project) == f"git+{GITHUB}@{github.git('rev-parse', 'v0.9.0')}{SUBDIRECTORY}"
    assert answers(project)["_src_path"] == "gh:org/vibetuner-template"
    assert answers(project)["_commit"] == "v0.9.0"
    assert str(tmp_path) not in "".join(rendered_files(project).values())
    assert "uv run just local-all-with-worker" in output
    docs = "https://github.com/org/vibetuner-template/blob/v0.9.0/docs/index.md"
    assert f"]({docs})" in (project / "README.md").read_text("utf-8")
    assert docs in (project / "AGENTS.md").read_text("utf-8")


def test_from_a_branch_at_github_it_is_that_commit(github: Repository, tmp_path: Path):
    """A project of a branch at GitHub installs the runtime of the commit that rendered it."""
    project = tmp_path / "my-project"
    github.copy("gh:org/vibetuner-template", project, "--vcs-ref", "main", "--quiet")

    assert source(project) == f"git+{GITHUB}@{github.git('rev-parse', 'main')}{SUBDIRECTORY}"


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("gh:org/vibetuner-template.git", GITHUB),
        ("https://github.com/org/vibetuner-template.git", GITHUB),
        ("git+https://github.com/org/vibetuner-template.git", GITHUB),
        (
            "git@github.com:org/vibetuner-template.git",
            "ssh://git@github.com/org/vibetuner-template.git",
        ),
    ],
)
def test_any_address_of_a_repository_becomes_one_that_uv_reads(
    github: Repository, tmp_path: Path, address: str, url: str
):
    """Copier's short forms of an address become a URL that uv can read."""
    project = tmp_path / "my-project"
    github.copy(address, project, "--quiet")

    assert source(project).startswith(f"git+{url}@")


def test_from_a_clone_with_a_release_it_is_that_release(repository: Repository, tmp_path: Path):
    """A project of a local clone installs the latest release, by a URL of the clone."""
    project = tmp_path / "my-project"
    run_copy(str(repository.folder), project, defaults=True, quiet=True, unsafe=False)

    rev = repository.git("rev-parse", "v0.9.0")
    assert source(project) == f"git+{file_url(repository.folder)}@{rev}{SUBDIRECTORY}"


def test_from_a_relative_path_it_is_found_from_anywhere(repository: Repository, tmp_path: Path):
    """A relative path to the template becomes absolute, as the project may move."""
    here = repository.folder.parent
    repository.copy(f"./{repository.folder.name}", tmp_path / "p", "--quiet", cwd=here)

    assert source(tmp_path / "p").startswith(f"git+{file_url(repository.folder)}@")


def test_from_a_clone_between_releases_it_is_the_folder(repository: Repository, tmp_path: Path):
    """A project of a commit between releases uses the runtime in the clone's folder.

    There, the template and the runtime are being worked on.
    """
    project = tmp_path / "my-project"
    run_copy(str(repository.folder), project, defaults=True, quiet=True, vcs_ref="HEAD")

    assert_is_folder(project, repository.folder)


def test_from_a_dirty_clone_it_is_the_release_unless_asked_otherwise(
    repository: Repository, tmp_path: Path
):
    """A project of a dirty clone installs the latest release, without uncommitted changes."""
    make_dirty(repository)
    project = tmp_path / "my-project"
    run_copy(str(repository.folder), project, defaults=True, quiet=True)

    assert f"@{repository.git('rev-parse', 'v0.9.0')}#" in source(project)
    assert "dirty" not in (project / "README.md").read_text("utf-8")


def test_from_a_dirty_clone_at_its_head_it_is_the_folder(repository: Repository, tmp_path: Path):
    """A project of a dirty clone's HEAD uses the folder.

    Copier makes a commit that exists nowhere else, and that nobody could install.
    """
    repository.git("reset", "--hard", "--quiet", "v0.9.0")
    make_dirty(repository)
    project = tmp_path / "my-project"
    with pytest.warns(DirtyLocalWarning):
        run_copy(str(repository.folder), project, defaults=True, quiet=True, vcs_ref="HEAD")

    assert_is_folder(project, repository.folder)
    assert "dirty" in (project / "README.md").read_text("utf-8")


def test_from_a_clone_without_releases_it_is_the_folder(repository: Repository, tmp_path: Path):
    """A project of a clone without tags, such as a new fork, uses the folder."""
    repository.git("tag", "--delete", "v0.9.0")
    project = tmp_path / "my-project"
    run_copy(str(repository.folder), project, defaults=True, quiet=True)

    assert_is_folder(project, repository.folder)


def test_from_a_plain_folder_it_is_the_folder(plain: Path, tmp_path: Path):
    """A project of a template outside git uses the folder, and records no commit."""
    project = render(plain, tmp_path / "my-project")

    assert_is_folder(project, plain)
    assert "_commit" not in answers(project)


def test_no_requirement_leaves_the_runtime_to_an_index(plain: Path, tmp_path: Path):
    """Each requirement of the runtime names its source, as its name on an index is not ours."""
    document = read(render(plain, tmp_path / "my-project"))

    url = f"file://{plain}/runtime"
    assert document["project"]["dependencies"] == [f"vibetuner-runtime @ {url}"]
    assert f"vibetuner-runtime[embedded] @ {url}" in document["dependency-groups"]["dev"]


def test_uv_installs_from_the_folder(plain: Path, tmp_path: Path):
    """`uv lock` resolves the runtime to the folder."""
    project = render(plain, tmp_path / "my-project")
    environment = clean_environment(UV_NO_GITHUB_FAST_PATH="1")
    run("uv", "lock", "--quiet", cwd=project, environment=environment)

    [runtime] = locked_runtime(project)
    assert (project / runtime["source"]["editable"]).resolve() == plain / "runtime"


def test_uv_installs_from_a_release(github: Repository, plain: Path, tmp_path: Path):
    """`uv lock` resolves the runtime to the commit of the release at GitHub."""
    shutil.copytree(plain / "runtime", github.folder / "runtime")
    rev = github.commit("Add the runtime", tag="v0.9.1")
    project = tmp_path / "my-project"
    github.copy("gh:org/vibetuner-template", project, "--quiet")
    run("uv", "lock", "--quiet", cwd=project, environment=github.environment)

    [runtime] = locked_runtime(project)
    assert runtime["source"]["git"] == f"{GITHUB}?subdirectory=runtime&rev={rev}#{rev}"


def make_dirty(repository: Repository) -> None:
    with (repository.folder / "template" / "README.md.jinja").open("a", encoding="utf-8") as file:
        file.write("\ndirty\n")


def source(project: Path) -> str:
    """Return the address that both requirements name."""
    document = read(project)
    texts = [*document["project"]["dependencies"], *document["dependency-groups"]["dev"]]
    found = {text.partition(" @ ")[2] for text in texts if text.startswith("vibetuner-runtime")}
    [address] = found
    return str(address)


def assert_is_folder(project: Path, template: Path) -> None:
    """Assert that the requirements name the folder, and that uv follows changes in it."""
    assert source(project) == f"{file_url(template)}/runtime"
    assert read(project)["tool"]["uv"]["sources"]["vibetuner-runtime"] == {
        "path": f"{template}/runtime", "editable": True,
    }  # fmt: skip


def read(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text("utf-8"))


def answers(project: Path) -> dict[str, str]:
    found = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def locked_runtime(project: Path) -> list[dict[str, dict[str, str]]]:
    packages = tomllib.loads((project / "uv.lock").read_text("utf-8"))["package"]
    return [package for package in packages if package["name"] == "vibetuner-runtime"]


def file_url(path: Path) -> str:
    return f"file://{quote(os.path.realpath(path))}"
