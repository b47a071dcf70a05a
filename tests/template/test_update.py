"""An update changes the template's files, and keeps those of the user."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from copier import run_copy, run_recopy, run_update

from tests.template.conftest import (
    ROOT,
    Repository,
    make_repository,
    rendered_files,
    run,
    write_template,
)
from tests.template.test_runtime_source import answers, source

SEEDS = (".vscode/", "AGENTS.md", "CLAUDE.md", "README.md", "justfile", "src/", "tests/")
MODEL = "src/{{ package_name }}/models/__init__.py"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Release the template as v0.9.1, beside a committed project of v0.9.0, for reading only."""
    repository = make_repository(tmp_path_factory.mktemp("published"), runtime=False)
    start(repository, repository.folder.with_name("my-project"))
    add_news(repository.folder)
    repository.commit("Next", tag="v0.9.1")
    return repository


@pytest.fixture
def project(published: Repository, tmp_path: Path) -> Repository:
    """Copy the project for this test."""
    made = published.folder.with_name("my-project")
    shutil.copytree(made, tmp_path / "my-project", symlinks=True)
    return Repository(tmp_path / "my-project", published.environment)


def releases() -> list[str]:
    """Return the releases of this repository, the oldest first; none in a clone without tags."""
    done = subprocess.run(
        ["git", "tag", "--list", "v[0-9]*", "--sort", "version:refname", "--merged"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.split() if done.returncode == 0 else []


@pytest.fixture(params=[*releases(), "v0.0.1"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """Make a repository of the template at a former release and, as v999.0.0, with what is new.

    Besides the real releases, there is always v0.0.1, the present state under an older name.
    """
    tag, repository = request.param, make_repository(tmp_path, runtime=False)
    for old in repository.git("tag").split():
        repository.git("tag", "--delete", old)
    if tag in releases():
        replace_with_release(repository.folder, tag)
    repository.commit("Then", tag=tag)
    clear(repository.folder)
    write_template(repository.folder, runtime=False)
    add_news(repository.folder)
    repository.commit("Now", tag="v999.0.0")
    return repository


def test_from_every_release_an_untouched_project_becomes_a_fresh_one(
    history: Repository, tmp_path: Path
):
    """After an update from any release, the template's files equal those of a new project.

    README.md, justfile, src/ and tests/ stay as they were.
    """
    first = history.git("tag", "--sort", "version:refname").split()[0]
    project = start(history, tmp_path / "my-project", first)
    before = rendered_files(project.folder, without=".git")
    update(project)

    run_copy(str(history.folder), tmp_path / "fresh" / "my-project", defaults=True, quiet=True)
    after, fresh = (
        rendered_files(project.folder, without=".git"),
        rendered_files(tmp_path / "fresh" / "my-project"),
    )
    assert managed(after) == managed(fresh)
    assert "# new" in after[".just/run.just"]
    assert seeds(after) == seeds(before)
    assert answers(project.folder)["_commit"] == "v999.0.0"
    assert f"@{history.git('rev-parse', 'v999.0.0')}#" in source(project.folder)


def test_from_every_release_a_users_work_survives(history: Repository, tmp_path: Path):
    """An update from any release keeps a user's dependencies, recipes, edits and deletions."""
    first = history.git("tag", "--sort", "version:refname").split()[0]
    project = start(history, tmp_path / "my-project", first)
    work(project)
    before = seeds(rendered_files(project.folder, without=".git"))
    update(project)

    assert_work_survives(project, before)
    assert "# new" in (project.folder / ".just/run.just").read_text("utf-8")
    assert f"@{history.git('rev-parse', 'v999.0.0')}#" in source(project.folder)


def test_a_project_without_the_example_stays_without(
    project: Repository, published: Repository, tmp_path: Path
):
    """An update of a project without the example does not add the example."""
    bare = start(published, tmp_path / "bare" / "my-project", "v0.9.0", example=False)
    before = seeds(rendered_files(bare.folder, without=".git"))
    update(bare)

    after = rendered_files(bare.folder, without=".git")
    assert seeds(after) == before
    assert "# new" in after[".just/run.just"]
    assert "tests/test_signup.py" not in after


def test_a_renamed_folder_keeps_the_projects_name(project: Repository):
    """An update keeps the project's name after its folder was renamed."""
    moved = project.folder.rename(project.folder.parent / "elsewhere")
    project = Repository(moved, project.environment)
    update(project)

    assert answers(moved)["project_name"] == "My Project"
    assert answers(moved)["_commit"] == "v0.9.1"
    assert 'name = "my-project"' in (moved / "pyproject.toml").read_text("utf-8")
    assert [path.name for path in (moved / "src").iterdir()] == ["my_project"]


def test_recopy_renews_the_templates_files_and_no_others(project: Repository):
    """`copier recopy` renews the template's files, even broken ones, and keeps the user's."""
    work(project)
    (project.folder / ".just" / "run.just").write_text("broken")
    project.commit("Break something")
    run_recopy(project.folder, defaults=True, overwrite=True, quiet=True, unsafe=False)

    after = rendered_files(project.folder, without=".git")
    assert "# new" in after[".just/run.just"]
    assert after["src/my_project/tune.py"] == "# all mine\n"
    assert after["justfile"].endswith("check:\n    true\n")


def test_pretending_changes_nothing(project: Repository, capsys: pytest.CaptureFixture[str]):
    """`copier update --pretend` changes no file."""
    before = rendered_files(project.folder, without=".git")
    run_update(project.folder, defaults=True, overwrite=True, pretend=True, unsafe=False)

    assert "Nothing was changed: with --pretend" in capsys.readouterr().err
    assert rendered_files(project.folder, without=".git") == before


def test_a_changed_answer_changes_the_templates_files(project: Repository):
    """A changed answer changes the template's files, while the user's keep the old answer."""
    update(project, data={"description": "Now it sells books", "author_name": "Bo Li"})

    text = (project.folder / "pyproject.toml").read_text("utf-8")
    assert 'description = "Now it sells books"' in text
    assert 'name = "Bo Li"' in text
    assert answers(project.folder)["description"] == "Now it sells books"
    assert "books" not in (project.folder / "README.md").read_text("utf-8")


def add_news(template: Path) -> None:
    """Change two seed files and one that is managed, as a later version may."""
    for name in (".just/run.just", "README.md.jinja", MODEL):
        with (template / "template" / name).open("a", encoding="utf-8") as file:
            file.write("\n# new\n")


def start(
    template: Repository, folder: Path, version: str | None = None, *, example: bool = True
) -> Repository:
    """Make a committed project of a version."""
    run_copy(
        str(template.folder), folder, {"example": example}, defaults=True, quiet=True,
        vcs_ref=version, unsafe=False,
    )  # fmt: skip
    project = Repository(folder, template.environment)
    project.git("init", "--quiet")
    project.commit("Start")
    return project


def work(project: Repository) -> None:
    """Change a project as a user does."""
    for command in (["polars>=1", "zstandard"], ["--dev", "attrs", "pytest-xdist>=3", "yarl"]):
        arguments = ("uv", "add", "--frozen", "--quiet", *command)
        run(*arguments, cwd=project.folder, environment=project.environment)
    edit(
        project.folder / "pyproject.toml",
        ("\\Z", '\n[tool.uv.sources.polars]\npath = "../polars"\n'),
    )
    edit(project.folder / "compose.prod.yml", ('"127.0.0.1:8000:8000"', '"127.0.0.1:9000:8000"'))
    edit(project.folder / ".env.example", ("\\Z", "\n# Ours.\nSHOP_NAME=Corner\n"))
    edit(project.folder / "justfile", ("\\Z", "\ncheck:\n    true\n"))
    (project.folder / "src/my_project/tune.py").write_text("# all mine\n", "utf-8")
    (project.folder / "src/my_project/demo_data.py").unlink()
    shutil.rmtree(project.folder / "src/my_project/templates")
    (project.folder / "compose.override.yml").write_text("services: {}\n", "utf-8")
    project.commit("Make it mine")


def assert_work_survives(project: Repository, before: dict[str, str]) -> None:
    after = rendered_files(project.folder, without=".git")
    assert seeds(after) == before
    added = ('"polars>=1"', '"zstandard"', '"attrs"', '"pytest-xdist>=3"', '"yarl"')
    for part in (*added, '[tool.uv.sources.polars]\npath = "../polars"'):
        assert part in after["pyproject.toml"]
    assert '"127.0.0.1:9000:8000"' in after["compose.prod.yml"]
    assert "SHOP_NAME=Corner" in after[".env.example"]
    assert after["compose.override.yml"] == "services: {}\n"
    assert not [name for name, text in after.items() if "<<<<<<<" in text]
    assert not [name for name in after if name.endswith(".rej")]
    assert project.git("ls-files", "--unmerged") == ""


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text("utf-8")
    for old, new in changes:
        if old == "\\Z":
            text += new
        else:
            assert old in text, f"{old!r} is not in {path.name}"
            text = text.replace(old, new, 1)
    path.write_text(text, "utf-8")


def update(project: Repository, **options: object) -> None:
    run_update(project.folder, defaults=True, overwrite=True, quiet=True, unsafe=False, **options)


def managed(files: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in files.items() if not name.startswith(SEEDS)}


def seeds(files: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in files.items() if name.startswith(SEEDS)}


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_with_release(folder: Path, tag: str) -> None:
    """Replace the template with its state at a release of this repository."""
    clear(folder)
    paths = ("copier.yml", "template")
    archive = subprocess.run(
        ["git", "archive", "--format=tar", tag, *paths], cwd=ROOT, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
