"""The names that the runtime exports, what an import costs, and its one version."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import walk_packages

import pytest

import vibetuner

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference" / "modules"
FOUND = [module.name for module in walk_packages(vibetuner.__path__, "vibetuner.")]
MODULES = ["vibetuner", *(name for name in FOUND if name != "vibetuner.__main__")]
HEAVY = {
    "anyio", "asyncio", "beanie", "coredis", "email", "fastapi", "httpx2", "importlib.metadata",
    "jinja2", "logging", "pydantic", "pymongo", "pytest", "rich", "sqlalchemy", "sqlmodel",
    "starlette", "streaq", "typer", "uvicorn", "watchfiles",
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_module_with_a_reference_page_lists_its_names(name: str):
    """A module with a reference page lists its names in ``__all__``; other modules have none."""
    module = import_module(name)
    exported = getattr(module, "__all__", [])

    assert [item for item in exported if not hasattr(module, item)] == []
    assert len(exported) == len(set(exported))
    assert module.__doc__, "a module says in a sentence what it is"
    if not hasattr(module, "__path__"):
        assert bool(exported) is (PAGES / f"{name}.md").is_file()


def test_no_module_hides_an_import_circle():
    """No module about tasks has ``__getattr__``: names are imported at the top of a module."""
    packages = (
        "vibetuner.tasks.dead_letters",
        "vibetuner.tasks.letters",
        "vibetuner.tasks.inspect",
    )
    tasks = [name for name in MODULES if name.startswith(packages)]

    assert [name for name in tasks if hasattr(import_module(name), "__getattr__")] == []


@pytest.mark.parametrize("name", ["vibetuner.tasks.dead_letters", "vibetuner.tasks.worker"])
def test_the_letters_and_the_worker_are_imported_in_any_order(name: str, tmp_path: Path):
    """The dead letters and the worker can be imported in any order."""
    assert "vibetuner.tasks.letters.letter" in loaded_by(f"import {name}", tmp_path)


def test_the_names_of_the_guide_are_where_it_says():
    """Each name can be imported by the line in the guide."""
    from vibetuner import VibetunerApp
    from vibetuner.context import Context, ctx
    from vibetuner.frontend.lifespan import base_lifespan as frontend_lifespan
    from vibetuner.models import UserModel
    from vibetuner.services.email import send_email
    from vibetuner.sse import broadcast, sse_endpoint
    from vibetuner.tasks import WorkerDepends
    from vibetuner.tasks.lifespan import base_lifespan
    from vibetuner.tasks.robust import robust_task
    from vibetuner.tasks.worker import get_worker

    for thing in (
        VibetunerApp, Context, UserModel, send_email, broadcast, sse_endpoint, WorkerDepends,
        base_lifespan, frontend_lifespan, robust_task, get_worker,
    ):  # fmt: skip
        assert callable(thing)
    assert repr(ctx) == "<ctx: None>"


def test_importing_vibetuner_is_silent_and_loads_next_to_nothing(tmp_path: Path):
    """`import vibetuner` prints nothing and loads no library, as every command pays for it."""
    assert loaded_by("import vibetuner", tmp_path) & HEAVY == set()


def test_help_loads_no_framework(tmp_path: Path):
    """The command line loads no framework; a command imports what it needs when it runs."""
    heavy = HEAVY - {"typer", "rich", "email", "logging", "asyncio", "importlib.metadata"}

    assert loaded_by("import vibetuner.cli.main", tmp_path) & heavy == set()


def test_a_worker_loads_no_web_framework_and_no_driver_that_it_does_not_use(tmp_path: Path):
    """A worker loads no web framework, and no driver that is not configured."""
    program = "import vibetuner.cli.worker"

    assert not loaded_by(program, tmp_path) & {
        "fastapi", "starlette", "uvicorn", "pymongo", "beanie", "sqlalchemy", "sqlmodel", "typer",
    }  # fmt: skip


def test_streams_and_progress_load_no_web_framework_until_a_route_is_registered(tmp_path: Path):
    """Events and progress, which task modules import, load no web framework."""
    program = "from vibetuner.sse import sse_endpoint; import vibetuner.tasks.progress"

    assert not loaded_by(program, tmp_path) & {"fastapi", "starlette", "uvicorn"}


def test_no_module_needs_an_environment_to_be_imported(tmp_path: Path):
    """Every module can be imported without an environment, and prints and writes nothing."""
    modules = loaded_by(f"import {', '.join(MODULES)}", tmp_path)

    assert {name for name in modules if name.startswith("vibetuner.")} == set(MODULES[1:])
    assert list(tmp_path.iterdir()) == []


def test_there_is_one_version():
    """Project, installed package, changelog and ``__version__`` name one version."""
    versions = {"root": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions["CHANGELOG.md"] = re.findall(r"(?m)^## \[(\d[^]]*)\]", changelog)[0]
    versions["installed"] = version("vibetuner-runtime")
    versions["__version__"] = vibetuner.__version__

    assert len(set(versions.values())) == 1, versions


def loaded_by(program: str, folder: Path) -> set[str]:
    """Return the modules that a new interpreter loads for ``program``, which must print nothing."""
    script = f"import sys; before = set(sys.modules)\n{program}\nprint(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=folder,
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    return set(line.split())
