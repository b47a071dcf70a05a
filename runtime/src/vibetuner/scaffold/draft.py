"""A generator's draft: files that are rendered from templates, and entries in tune.py."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from shutil import which
from typing import Any

from jinja2 import (
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
    TemplateSyntaxError,
)

from vibetuner.errors import CommandError, first_line
from vibetuner.project import project_info
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name, parse_name

FORMATTERS_WIDTH = 88
# The least room for a name; if the package's name leaves less, lines may be too long for lint.
SHORTEST_ROOM = 20

EJECTED = "scaffold"
PACKAGE = "vibetuner.scaffold"
RUFF_STEPS = (("check", "--select=I", "--fix-only"), ("format",))


@dataclass(frozen=True, slots=True)
class Place:
    """The project to write into."""

    root: Path
    package: str

    @property
    def source(self) -> str:
        """The package's folder, below the root."""
        return f"src/{self.package}"

    @property
    def tune(self) -> Path:
        """tune.py."""
        return self.root / self.source / "tune.py"

    @property
    def migrations(self) -> Path:
        """The folder of the SQL migrations, which need not exist."""
        return self.root / self.source / "migrations"

    def path(self, folder: str, name: Name) -> str:
        """Return the path of a module below the root: ``src/shop/tasks/billing/send_report.py``."""
        return f"{self.source}/{folder}/{name.path}.py"

    def module(self, folder: str, name: Name) -> str:
        """Return the module as it is imported: ``shop.tasks.billing.send_report``."""
        return f"{self.package}.{folder.replace('/', '.')}.{name.dotted}"

    def named(self, path: Path) -> str:
        """Return the name that code has for a file: as a module, or as a template."""
        templates, sources = self.root / self.source / "templates", self.root / "src"
        if path.is_relative_to(templates):
            return path.relative_to(templates).as_posix()
        below = sources if path.is_relative_to(sources) else self.root
        return ".".join(path.relative_to(below).with_suffix("").parts)

    def parse_name(self, text: str, kind: str) -> Name:
        """Parse a name as :func:`vibetuner.scaffold.names.parse_name` does, for this project."""
        longest_line = f"from {self.package}.frontend.routes. import ("
        room = max(_line_length(self.root) - len(longest_line), SHORTEST_ROOM)
        return parse_name(text, kind, is_taken=self._is_taken, room=room)

    def _is_taken(self, name: str) -> bool:
        """Return whether an installed package has the name."""
        if name == self.package:
            return True
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            return False
        origin = Path(spec.origin)
        # A module that is found only through the current folder is the project's own.
        return "site-packages" in origin.parts or not origin.is_relative_to(self.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All files of one generated thing, its entries in tune.py, and the commands to run next.

    Paths are relative to the project's root. tune.py imports the first file.
    """

    files: dict[str, str]
    entries: tuple[Entry, ...] = ()
    next_steps: tuple[str, ...] = ()
    after_removal: tuple[str, ...] = ("git status", "uv run just check")

    @property
    def packages(self) -> list[str]:
        """The folders of Python files that need an ``__init__.py``, from the top down."""
        modules = [PurePosixPath(path) for path in self.files if path.endswith(".py")]
        # src/<package> has its __init__.py, and so has tests/ if the project wants one.
        depth = {"src": 2, "tests": 1}
        around = {
            folder.as_posix()
            for module in modules
            for folder in module.parents
            if len(folder.parts) > depth.get(module.parts[0], 9)
            and "migrations" not in module.parts
        }
        return sorted(around, key=len)


def find_place() -> Place:
    """Return the project around the current folder; raise ProjectError if there is none."""
    project = project_info()
    return Place(project.root, project.package)


def test_path(kind: str, name: Name) -> str:
    """Return the path of a thing's test, below the root.

    >>> test_path("tasks", Name(("billing",), "send_report"))
    'tests/tasks/billing/test_send_report.py'
    """
    return "/".join(("tests", kind, *name.folders, f"test_{name.leaf}.py"))


def next_steps(test: str, run: str) -> tuple[str, ...]:
    """Return the commands to type once something is written; ``test`` is empty without a test."""
    return (f"uv run pytest {test}" if test else "uv run just test", run, "uv run just check")


def read_module(place: Place, path: str, what: str) -> str:
    """Return the text of a generated file; raise CommandError if it does not exist."""
    file = place.root / path
    if not file.is_file():
        raise CommandError(f"There is no {what}: {path} does not exist")
    return file.read_text(encoding="utf-8", errors="replace")


class Renderer:
    """Renders templates for a project."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._environment = Environment(
            loader=ChoiceLoader(
                [FileSystemLoader(place.root / EJECTED), PackageLoader(PACKAGE, "templates")]
            ),
            autoescape=False,  # noqa: S701 - it writes Python, and names that were checked
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.globals.update(
            package=place.package,
            # Kept for templates that were ejected from an older version.
            import_lines=lambda module, *names: f"from {module} import {', '.join(names)}",
            call_lines=lambda start, items, indent=0: f"{start}({', '.join(items)})",  # noqa: ARG005
        )

    def render(self, template: str, /, **values: Any) -> str:
        """Return the text of a file.

        Raises CommandError if an ejected template of the project is broken.
        """
        try:
            return self._environment.get_template(f"{template}.jinja").render(values)
        except TemplateSyntaxError as error:
            raise CommandError(f"{error.filename}:{error.lineno}: {error.message}") from None
        except Exception as error:
            own = self._place.root / EJECTED / f"{template}.jinja"
            raise CommandError(f"{own}: {first_line(error)}") from error


def tidy(place: Place, path: Path, text: str) -> str:
    """Return Python formatted by ruff with the project's configuration and sorted imports.

    Return the text unchanged if ruff is not installed or can't parse it.
    """
    folders = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    ruff = which("ruff", path=os.pathsep.join(folders))
    if ruff is None or path.suffix != ".py":
        return text
    # Tell ruff which imports are the project's: their files may not be written yet.
    ours = f'lint.isort.known-first-party = ["{place.package}"]'
    for step in RUFF_STEPS:
        done = subprocess.run(
            [ruff, *step, "--quiet", "--no-cache", "--config", ours, "--stdin-filename", path, "-"],
            cwd=place.root, input=text.encode(), capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return text
        text = done.stdout.decode()
    return text


def list_templates() -> dict[str, str]:
    """Return the runtime's own templates, by file name."""
    folder = Path(__file__).parent / "templates"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def _line_length(root: Path) -> int:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    width = settings.get("tool", {}).get("ruff", {}).get("line-length", FORMATTERS_WIDTH)
    return width if isinstance(width, int) else FORMATTERS_WIDTH
