"""The template in the places that people copy it from, without the state of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

import pytest
from jinja2.sandbox import SandboxedEnvironment

from tests.environments import Mold, make_once, shared_folder
from tests.processes import clean_environment, run_module

ROOT = Path(__file__).parents[2]
CACHES = shutil.ignore_patterns("__pycache__", ".*_cache", ".DS_Store")

GIT_CONFIG = """
[user]
    name = Ann Lee
    email = ann@example.com
[init]
    defaultBranch = main
[maintenance]
    auto = false
[protocol "file"]
    allow = always
"""


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Compile each text once a session; Copier's environments would do so 660 times a render."""
    compiled: dict[tuple[str, str | None, str | None], CodeType] = {}
    compile_text = SandboxedEnvironment.compile

    def compile_once(
        self: SandboxedEnvironment, source: str, name: str | None = None, file: str | None = None
    ) -> CodeType:
        key = (source, name, file)
        if key not in compiled:
            compiled[key] = compile_text(self, source, name, file)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SandboxedEnvironment, "compile", compile_once)
        yield


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the template and its runtime into a folder outside git; tests only read it."""
    return make_once(shared_folder(tmp_path_factory) / "vibetuner-template", write_template)


@pytest.fixture(scope="session")
def mold(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Mold:
    """Return the environment of a project that ``plain`` makes."""
    return Mold(shared_folder(tmp_path_factory) / "mold", plain)


def write_template(folder: Path, *, runtime: bool = True) -> None:
    """Copy copier.yml, the template, and the runtime that projects install."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "copier.yml", folder)
    shutil.copytree(ROOT / "template", folder / "template", ignore=CACHES)
    if runtime:
        shutil.copytree(ROOT / "runtime", folder / "runtime", ignore=CACHES)


@dataclass(frozen=True)
class Repository:
    """A git repository, on which the tests run git and Copier."""

    folder: Path
    environment: dict[str, str] = field(repr=False)

    def git(self, *arguments: str) -> str:
        """Return the output of a git command in the repository."""
        return run("git", *arguments, cwd=self.folder, environment=self.environment).stdout.strip()

    def commit(self, message: str, *, tag: str | None = None) -> str:
        """Commit everything, with a tag if one is given; return the commit's hash."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        if tag:
            self.git("tag", tag)
        return self.git("rev-parse", "HEAD")

    def copy(
        self, source: str, project: Path, *options: str, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``copier copy --defaults SOURCE PROJECT`` as a person types it: without --trust."""
        arguments = ("copy", "--defaults", *options, source, str(project))
        folder = cwd or self.folder.parent
        done = run_module("copier", *arguments, folder=folder, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Make a repository of the template with a release, v0.9.0, and a commit after it."""
    return make_repository(tmp_path)


def make_repository(place: Path, *, runtime: bool = True) -> Repository:
    """Make a repository of the template below a folder, with a release and a commit after it.

    Copier clones it for each copy and update, which takes half the time without the runtime.
    """
    folder, settings = place / "templates" / "vibetuner template", place / "gitconfig"
    settings.write_text(GIT_CONFIG, encoding="utf-8")
    environment = clean_environment(
        GIT_CONFIG_GLOBAL=str(settings),
        GIT_CONFIG_SYSTEM=os.devnull,
        COPIER_CACHE_DIR=str(place / "copier-cache"),
        UV_NO_GITHUB_FAST_PATH="1",
    )
    write_template(folder, runtime=runtime)
    repository = Repository(folder, environment)
    repository.git("init", "--quiet")
    repository.commit("Release", tag="v0.9.0")
    # A clone links one file instead of hundreds in as many folders.
    repository.git("repack", "-adq")
    (folder / "NEWS").write_text("more to come\n", encoding="utf-8")
    repository.commit("Go on")
    return repository


def run(
    *command: str, cwd: Path | None, environment: dict[str, str], seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command, and assert that it succeeds."""
    process = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
    return process


def rendered_files(project: Path, *, without: str = "") -> dict[str, str]:
    """Return the text of each file of a new project by its path, perhaps without a folder's."""
    paths = (path for path in sorted(project.rglob("*")) if path.is_file())
    paths = (path for path in paths if path.relative_to(project).parts[0] != without)
    return {path.relative_to(project).as_posix(): path.read_text("utf-8") for path in paths}
