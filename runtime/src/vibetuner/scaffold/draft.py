"""What a generator wants to be there: files, packages, and entries in tune.py."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from vibetuner.project import ProjectInfo, project_info
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name, parse_name

__all__ = ["Draft", "Place", "find_place", "packages_of", "test_path"]

FORMATTERS_WIDTH = 88
# In a project whose own name fills the line, lint has to bear with it.
SHORTEST_ROOM = 20


@dataclass(frozen=True, slots=True)
class Place:
    """The project that is written into."""

    root: Path
    package: str
    width: int

    @property
    def source(self) -> str:
        """The package's folder, below the root."""
        return f"src/{self.package}"

    @property
    def tune(self) -> Path:
        """tune.py."""
        return self.root / self.source / "tune.py"

    def parse_name(self, text: str, kind: str) -> Name:
        """As :func:`vibetuner.scaffold.names.parse_name`, with what is installed here taken."""
        longest_line = f"from {self.package}.frontend.routes. import ("
        room = max(self.width - len(longest_line), SHORTEST_ROOM)
        return parse_name(text, kind, is_taken=_taken_in(self.root, self.package), room=room)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything that one thing consists of; paths are below the project's root.

    Args:
        files: texts by path.
        packages: folders that need an ``__init__.py``; one that is there is left alone.
        entries: what tune.py must list.
        next_steps: what to type next.
    """

    files: dict[str, str]
    packages: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    next_steps: tuple[str, ...] = field(default=())


def find_place() -> Place:
    """The project around the current folder; raises ProjectError when there is none."""
    project: ProjectInfo = project_info()
    return Place(project.root, project.package, _line_length(project.root))


def test_path(kind: str, name: Name) -> str:
    """Where the test of a thing lies, below the root.

    >>> test_path("tasks", Name(("billing",), "send_report"))
    'tests/tasks/billing/test_send_report.py'
    """
    return "/".join(("tests", kind, *name.folders, f"test_{name.leaf}.py"))


def packages_of(place: Place, folder: str, kind: str, name: Name, *, test: bool) -> tuple[str, ...]:
    """The packages around a module below ``folder``, and around its test, from the top down."""
    parts = folder.split("/")
    tops = ["/".join((place.source, *parts[: depth + 1])) for depth in range(len(parts))]
    inner = [tops[-1], *([f"tests/{kind}"] if test else [])]
    below = [
        "/".join((top, *name.folders[: depth + 1]))
        for top in inner
        for depth in range(len(name.folders))
    ]
    return (*tops, *inner[1:], *below)


def _line_length(root: Path) -> int:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    width = settings.get("tool", {}).get("ruff", {}).get("line-length", FORMATTERS_WIDTH)
    return width if isinstance(width, int) else FORMATTERS_WIDTH


def _taken_in(root: Path, package: str) -> Callable[[str], bool]:
    def is_taken(name: str) -> bool:
        if name == package:
            return True
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            return False
        origin = Path(spec.origin)
        # What only the current folder makes importable is the project's own.
        return "site-packages" in origin.parts or not origin.is_relative_to(root)

    return is_taken
