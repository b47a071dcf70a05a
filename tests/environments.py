"""Generated projects and their environments, made once a run and copied or linked by tests.

Rendering a project takes one processor second, a third of it in git, which Copier asks about each
file. Installing one takes ten: packages are linked, the runtime is built, and missing bytecode is
compiled. Linking an installed environment takes half of one; uv then replaces what differs in the
project. Mypy takes 16 to read the libraries, or 4 if `just types` has read them; its cache serves
every project, and later runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from importlib.util import source_from_cache
from pathlib import Path
from typing import Any

import pytest
from copier import run_copy
from plumbum import local

from tests.processes import clean_environment

__all__ = ["Mold", "make_once", "render", "shared_folder"]

# The cache of this repository itself, whose libraries a project has too, and one for projects.
OUR_TYPES = Path(__file__).parents[1] / ".mypy_cache"
KEPT_TYPES = OUR_TYPES / "project"
# pytest comes first, as it compiles the modules of its plugins itself.
IMPORT_ALL = """
import sys
import pytest
code = pytest.main(["--collect-only"])
import vibetuner.frontend.app
sys.exit(code)
"""


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder that all processes of pytest-xdist share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def make_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Have the first process that needs ``folder`` make it, and the others wait."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = folder.with_name(f"{folder.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            make(draft)
            draft.rename(folder)
    return folder


def render(template: Path, project: Path, **answers: Any) -> Path:
    """Render the project that ``copier copy --defaults`` makes of a template outside git.

    The first project of a name and its answers is rendered beside the template; the others are
    copies of it.
    """
    key = json.dumps([project.name, answers], sort_keys=True).encode()
    folder = template.with_name(f"render-{hashlib.sha256(key).hexdigest()[:16]}")

    def make(draft: Path) -> None:
        # Copier must not ask git about each file, as this template is no repository.
        with local.env(PATH=""):
            run_copy(str(template), draft / project.name, answers, defaults=True, quiet=True)

    shutil.copytree(make_once(folder, make) / project.name, project)
    return project


class Mold:
    """A project made of a template, and its installed environment."""

    def __init__(self, folder: Path, template: Path) -> None:
        self._template = template
        self._folder = make_once(folder, self._make)

    def _make(self, draft: Path) -> None:
        project = render(self._template, draft / "my-project")
        copy_types(project / ".mypy_cache")
        # A relocatable environment runs wherever it is linked to. All that projects' tests
        # import has its bytecode here: copied from ours, or compiled by these commands.
        self._uv(project, ("venv", "--relocatable"), ("sync", "--no-install-project"))
        copy_bytecode(Path(sysconfig.get_path("purelib")), project / ".venv")
        self._uv(
            project,
            ("run", "--no-sync", "python", "-c", IMPORT_ALL),
            ("run", "--no-sync", "mypy"),
        )
        keep_types(project / ".mypy_cache")

    @staticmethod
    def _uv(project: Path, *commands: tuple[str, ...]) -> None:
        for command in commands:
            subprocess.run(
                ["uv", "--quiet", *command],
                cwd=project,
                env=clean_environment(UV_NO_GITHUB_FAST_PATH="1", PYTHONPATH="src"),
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=600,
            )

    def lend(self, project: Path, *, lock: bool = False) -> None:
        """Link the environment into a project; with ``lock``, copy its lock file, too."""
        source = self._folder / "my-project"
        shutil.copytree(source / ".venv", project / ".venv", symlinks=True, copy_function=os.link)
        shutil.copytree(source / ".mypy_cache", project / ".mypy_cache")
        if lock:
            shutil.copy(source / "uv.lock", project)

    def check_types(self, file: Path, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a generated project's mypy on a file, with its cache in a folder."""
        source = self._folder / "my-project"
        shutil.copytree(source / ".mypy_cache", folder / ".mypy_cache")
        return subprocess.run(
            [source / ".venv/bin/mypy", "--cache-dir", folder / ".mypy_cache", file],
            cwd=source,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


def copy_bytecode(ours: Path, environment: Path) -> None:
    """Copy the bytecode of each library file that is the same in both environments.

    The interpreter recognizes current bytecode in the same way: by the source's size and time.
    """
    for theirs in environment.glob(f"lib/python*/{ours.name}"):
        for compiled in ours.rglob(f"__pycache__/*.{sys.implementation.cache_tag}.pyc"):
            source = Path(source_from_cache(str(compiled))).relative_to(ours)
            copied = theirs / compiled.relative_to(ours)
            with suppress(FileNotFoundError):  # a file that one of the two lacks
                if read_state(ours / source) == read_state(theirs / source):
                    copied.parent.mkdir(exist_ok=True)
                    shutil.copyfile(compiled, copied)


def read_state(file: Path) -> tuple[int, int]:
    """Return the size and the time of a file."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def copy_types(cache: Path) -> None:
    """Copy mypy's cache of earlier projects, or else what `just types` has left."""
    if KEPT_TYPES.is_dir():
        shutil.copytree(KEPT_TYPES, cache)
    elif (ours := OUR_TYPES / "{}.{}".format(*sys.version_info)).is_dir():
        shutil.copytree(ours, cache / ours.name)


def keep_types(cache: Path) -> None:
    """Keep mypy's cache for the next run; mypy compares each file with its cached state."""
    draft = KEPT_TYPES.with_name(f"draft-{os.getpid()}")
    shutil.copytree(cache, draft)
    shutil.rmtree(KEPT_TYPES, ignore_errors=True)
    try:
        draft.rename(KEPT_TYPES)
    except OSError:  # another run was quicker
        shutil.rmtree(draft)
