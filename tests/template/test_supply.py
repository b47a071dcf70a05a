"""The sources of a project's packages when somebody else offers packages of the same name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.processes import clean_environment
from tests.template.conftest import Repository, make_repository, run

# The part of a runtime that an installer reads; to build the real one, it would need much more.
RUNTIME = """
[build-system]
requires = ["uv_build"]
build-backend = "uv_build"

[project]
name = "vibetuner-runtime"
version = "0.9.1"
optional-dependencies = { speed = [], embedded = [] }

[tool.uv.build-backend]
module-name = "vibetuner"
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of wheels in which a stranger offers a newer vibetuner-runtime."""
    folder = tmp_path_factory.mktemp("index")
    name = "vibetuner_runtime-99.0"
    with ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stranger.py", "")
        metadata = "Metadata-Version: 2.1\nName: vibetuner-runtime\nVersion: 99.0\n"
        extras = "Provides-Extra: speed\nProvides-Extra: embedded\n"
        wheel.writestr(f"{name}.dist-info/METADATA", metadata + extras)
        tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{name}.dist-info/WHEEL", tags)
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Make a project of v0.9.1, with an environment that can build and has nothing else."""
    repository = make_repository(tmp_path_factory.mktemp("supply"))
    runtime = repository.folder / "runtime"
    (runtime / "pyproject.toml").write_text(RUNTIME, encoding="utf-8")
    repository.commit("Next", tag="v0.9.1")
    folder = repository.folder.parent / "my-project"
    repository.copy(str(repository.folder), folder, "--quiet")
    # As in an activated environment: without isolation, installers look for uv_build on the path.
    path = os.pathsep.join((str(folder / ".venv" / "bin"), os.environ["PATH"]))
    project = Repository(folder, repository.environment | {"PATH": path})
    uv(project, "venv", "--seed", "--quiet", "--python", sys.executable)
    uv(project, "pip", "install", "--quiet", "uv_build")
    return project


@pytest.mark.parametrize(
    ("command", "version"),
    [
        ("python -m pip install vibetuner-runtime", "99.0"),
        ("python -m pip install --no-build-isolation .", "0.9.1"),
        ("python -m pip install --no-build-isolation .[speed]", "0.9.1"),
        ("uv pip install --no-build-isolation .[speed]", "0.9.1"),
        ("uv sync --no-build-isolation --no-dev --extra speed --inexact", "0.9.1"),
    ],
)
def test_every_installer_takes_the_runtime_of_the_template(
    project: Repository, index: Path, command: str, version: str
):
    """Each installer of the project takes the template's runtime, not the stranger's newer one.

    Only the first command, which asks the index by name, gets the stranger's.
    """
    install(project, index, command)

    assert installed(project) == version


def test_the_projects_wheel_names_the_runtimes_address(project: Repository, index: Path):
    """The project's wheel requires the runtime by its address, and its installer gets the same."""
    uv(project, "build", "--wheel", "--no-build-isolation", "--quiet")
    [wheel] = (project.folder / "dist").glob("*.whl")
    install(project, index, f"python -m pip install --no-build-isolation dist/{wheel.name}")

    assert installed(project) == "0.9.1"
    with ZipFile(wheel) as file:
        [metadata] = [name for name in file.namelist() if name.endswith("/METADATA")]
        text = file.read(metadata).decode()
    assert "Requires-Dist: vibetuner-runtime@ git+file://" in text.replace(" @ ", "@ ")


def install(project: Repository, index: Path, command: str) -> None:
    uv(project, "pip", "uninstall", "--quiet", "vibetuner-runtime")
    if command.startswith("python"):
        command = f".venv/bin/{command}"
    words = [*command.split(), "--find-links", str(index), "--quiet"]
    run(*words, cwd=project.folder, environment=project.environment, seconds=300)


def installed(project: Repository) -> str:
    folder = project.folder / ".venv" / "lib"
    [name] = [path.name for path in folder.glob("*/site-packages/vibetuner_runtime-*.dist-info")]
    return name.removeprefix("vibetuner_runtime-").removesuffix(".dist-info")


def uv(project: Repository, *arguments: str) -> str:
    done = run("uv", *arguments, cwd=project.folder, environment=project.environment, seconds=300)
    return done.stdout


def test_a_build_takes_no_htmx_but_the_one_that_was_reviewed(plain: Path, tmp_path: Path):
    """A build ends with an error if an htmx file differs from the one that was reviewed.

    Visitors' browsers run these files.
    """
    runtime = tmp_path / "runtime"
    shutil.copytree(plain / "runtime", runtime)
    hook = runtime / "hatch_build.py"
    text = hook.read_text("utf-8")
    hook.write_text(text.replace("71ea67185b", "0" * 10), "utf-8")
    command = ("uv", "build", "--wheel")
    environment = clean_environment(UV_NO_GITHUB_FAST_PATH="1")
    done = subprocess.run(
        command, cwd=runtime, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "htmx-2.min.js has the SHA-256 71ea67185b" in " ".join(done.stderr.split())
    hook.write_text(text, "utf-8")
    run(*command, cwd=runtime, environment=environment, seconds=300)
