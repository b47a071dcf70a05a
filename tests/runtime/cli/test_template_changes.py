"""`vibetuner template-changes` in a project that a small template has made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.processes import run_vibetuner
from tests.projects import write_project
from vibetuner.cli.checks.outside import check_version
from vibetuner.cli.template_news import check_committed, run_tool
from vibetuner.errors import CommandError
from vibetuner.project import ProjectInfo

CHANGELOG = "# Changelog\n\n## [0.2.0]\n- Mail\n\n## [0.1.0]\n- Tasks\n"
GIT = ("git", "-c", "user.name=Ann", "-c", "user.email=ann@example.com")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository with two versions and a branch; tests only read it."""
    folder = tmp_path_factory.mktemp("template")
    git(folder, "init", "--quiet")
    (folder / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    git(folder, "add", "CHANGELOG.md")
    for version in ("v0.1.0", "v0.2.0"):
        git(folder, "commit", "--quiet", "--allow-empty", "--message", version)
        git(folder, "tag", version)
    git(folder, "branch", "next")
    return folder


def project_of(folder: Path, answers: str) -> Path:
    project = write_project(folder / "shop")
    (project / ".copier-answers.yml").write_text(answers, encoding="utf-8")
    return project


@pytest.mark.parametrize(
    ("version", "asked", "answer"),
    [
        ("v0.1.0", (), (0, "go from v0.1.0 to v0.2.0.\n\n## [0.2.0]\n- Mail\n")),
        (
            "v0.1.0",
            ("next",),
            (0, "from v0.1.0 to next.\n\nThe changelog has no section for it.\n"),
        ),
        ("v0.2.0", (), (3, "The project has v0.2.0 already, the newest version.\n")),
        ("v0.1.0", ("v0.1.0",), (3, "The project has v0.1.0 already.\n")),
    ],
)
def test_the_changelog_is_shown_from_one_version_to_the_other(
    template: Path, tmp_path: Path, version: str, asked: tuple[str, ...], answer: tuple[int, str]
):
    """The changelog between two versions is shown; if nothing is new, the exit code is 3."""
    project = project_of(tmp_path, f"_commit: {version}\n_src_path: {template}\n")
    done = run_vibetuner("template-changes", *asked, folder=project)
    code, text = answer
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.endswith(text)


def test_a_template_without_releases_is_followed_by_its_branch(tmp_path: Path):
    """Without a release, nothing is newest: the cure is a branch, and the doctor warns of none."""
    template = tmp_path / "template"
    template.mkdir()
    git(template, "init", "--quiet", "--initial-branch", "main")
    git(template, "commit", "--quiet", "--allow-empty", "--message", "Start")
    project = project_of(tmp_path, f"_commit: 6ca10c7\n_src_path: {template}\n")
    done = run_vibetuner("template-changes", folder=project)
    unknown = run_vibetuner("template-changes", "nxt", folder=project)
    [found] = check_version(ProjectInfo("Shop", "shop", "shop", "0", "", project))

    assert (done.returncode, done.stdout) == (
        3,
        "The template has no releases yet, and the project has its commit 6ca10c7. To follow a "
        "branch:  uv run just template-update main\n",
    )
    assert unknown.stderr == "error: The template has no version nxt; its branches: main\n"
    assert (found.level, found.text) == ("ok", "commit 6ca10c7 of a template without releases")


@pytest.mark.parametrize(
    ("answers", "asked", "words"),
    [
        ("", (), ".copier-answers.yml names no version: this project was made from a folder"),
        ("{of}", ("v9",), "The template has no version v9; the newest is v0.2.0"),
        ("{of}", ("--committed",), "Commit or stash your changes first (.copier-answers.yml, "),
        ("_commit: v0.1.0\n_src_path: /nowhere\n", (), "git ls-remote did not work: "),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    template: Path, tmp_path: Path, answers: str, asked: tuple[str, ...], words: str
):
    """A version that can't be compared is refused in one line, with the cure or git's reason."""
    of = f"_commit: v0.1.0\n_src_path: {template}\n"
    project = project_of(tmp_path, answers.format(of=of))
    git(project, "init", "--quiet")
    refused = run_vibetuner("template-changes", *asked, folder=project)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {words}")
    assert refused.stderr.count("\n") == 1


def test_git_is_asked_for_if_it_is_missing(tmp_path: Path):
    """Without a repository, and without git, a command names what to do first."""
    with pytest.raises(CommandError, match="is in no git repository.* git init && git add --all"):
        check_committed(tmp_path)

    with pytest.raises(CommandError, match=r"^nogit is not installed. Install it, and repeat$"):
        run_tool("nogit", "status", cwd=tmp_path)


def test_a_tool_that_hangs_is_named_with_the_time(tmp_path: Path):
    """A tool that doesn't answer in time, as git without a network, is named in one line."""
    with pytest.raises(CommandError, match=r"^sleep 60 took more than 0.1 s. Check the network"):
        run_tool("sleep", "60", cwd=tmp_path, seconds=0.1)
