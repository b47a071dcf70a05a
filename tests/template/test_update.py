"""A project follows its template, and keeps what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from copier import run_copy, run_update

from tests.template.conftest import Repository, rendered_files
from tests.template.test_runtime_source import answers, source


@pytest.fixture
def project(repository: Repository, tmp_path: Path) -> Repository:
    """A committed project of v0.9.0, while the template has gone on to v0.9.1."""
    folder = tmp_path / "my-project"
    run_copy(str(repository.folder), folder, defaults=True, quiet=True)
    project = Repository(folder, repository.environment)
    project.git("init", "--quiet")
    project.commit("Start")
    for name in (".just/run.just", "README.md.jinja", "src/{{ package_name }}/models/__init__.py"):
        with (repository.folder / "template" / name).open("a", encoding="utf-8") as file:
            file.write("\n# new in v0.9.1\n")
    repository.commit("Next", tag="v0.9.1")
    return project


def test_an_untouched_project_becomes_what_a_fresh_copy_is(
    project: Repository, repository: Repository, tmp_path: Path
):
    """Every file that is the template's; README.md, src/ and tests/ stay as they were."""
    before = rendered_files(project.folder / "src")
    update(project)

    run_copy(str(repository.folder), tmp_path / "fresh", defaults=True, quiet=True)
    for name, text in rendered_files(tmp_path / "fresh").items():
        if not name.startswith(("README.md", "justfile", "src/", "tests/")):
            assert (project.folder / name).read_text("utf-8") == text, name
    assert rendered_files(project.folder / "src") == before
    assert "v0.9.1" not in (project.folder / "README.md").read_text("utf-8")
    assert answers(project.folder)["_commit"] == "v0.9.1"
    assert source(project.folder)["rev"] == repository.git("rev-parse", "v0.9.1")


def test_what_a_person_has_changed_survives(project: Repository, repository: Repository):
    """An added dependency and source, own recipes, a rewritten tune.py, a deleted example."""
    pyproject = project.folder / "pyproject.toml"
    text = pyproject.read_text("utf-8")
    text = text.replace(
        '    "vibetuner-runtime",\n', '    "polars>=1",\n    "vibetuner-runtime",\n'
    )
    pyproject.write_text(f'{text}\n[tool.uv.sources.polars]\npath = "../polars"\n', "utf-8")
    tune = project.folder / "src" / "my_project" / "tune.py"
    tune.write_text("# all mine\n", "utf-8")
    (project.folder / "src" / "my_project" / "demo_data.py").unlink()
    justfile = project.folder / "justfile"
    justfile.write_text(justfile.read_text("utf-8") + "\ncheck:\n    true\n", "utf-8")
    project.commit("Make it mine")
    update(project)

    assert '"polars>=1"' in pyproject.read_text("utf-8")
    assert '[tool.uv.sources.polars]\npath = "../polars"' in pyproject.read_text("utf-8")
    assert source(project.folder)["rev"] == repository.git("rev-parse", "v0.9.1")
    assert tune.read_text("utf-8") == "# all mine\n"
    assert not (project.folder / "src" / "my_project" / "demo_data.py").exists()
    assert justfile.read_text("utf-8").endswith("check:\n    true\n")
    assert "<<<<<<<" not in "".join(rendered_files(project.folder / ".just").values())
    assert "<<<<<<<" not in pyproject.read_text("utf-8")


def update(project: Repository) -> None:
    run_update(project.folder, defaults=True, overwrite=True, quiet=True, unsafe=False)
