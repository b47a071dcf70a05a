"""A route: a page, its template, its test, its line in tune.py."""

from __future__ import annotations

from pathlib import Path

from vibetuner.scaffold.draft import Draft, Place, packages_of, test_path
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.rendering import Renderer

__all__ = ["draft_route"]

FOLDER = "frontend/routes"


def draft_route(place: Place, name: Name, *, test: bool = True) -> Draft:
    """Everything that a page of this name consists of."""
    render = Renderer(place).render
    values = {"name": name, "base": has_base(place.root / place.source)}
    files = {
        f"{place.source}/{FOLDER}/{name.path}.py": render("route.py", **values),
        f"{place.source}/templates/{name.path}.html": render("route.html", **values),
    }
    path = test_path("routes", name)
    if test:
        files[path] = render("test_route.py", **values)
    return Draft(
        files=files,
        packages=packages_of(place, FOLDER, "routes", name, test=test),
        entries=(route_entry(place, name),),
        next_steps=(
            f"uv run pytest {path}" if test else "uv run just test",
            f"uv run just local-all    # http://127.0.0.1:8000/{name.slug}",
            "uv run just check",
        ),
    )


def route_entry(place: Place, name: Name) -> Entry:
    """What tune.py says of a page: its router, by a name that no task or module has."""
    module = f"{place.package}.{FOLDER.replace('/', '.')}.{name.dotted}"
    return Entry("routes", module, "router", (f"{name.dotted.replace('.', '_')}_router",))


def has_base(source: Path) -> bool:
    """Whether the project has a base page with room for content."""
    base = source / "templates" / "base.html"
    return base.is_file() and "block content" in base.read_text(encoding="utf-8", errors="replace")
