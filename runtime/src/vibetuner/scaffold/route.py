"""A route: a page with its template, its test and its line in tune.py."""

from __future__ import annotations

from vibetuner.errors import CommandError
from vibetuner.scaffold.draft import Draft, Place, Renderer, next_steps, read_module, test_path
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.registered import find_pages

ROUTES = "frontend/routes"


def draft_route(place: Place, name: Name, *, test: bool = True) -> Draft:
    """Draft all files of a page with this name."""
    render = Renderer(place).render
    values = {"name": name, "base": has_base(place)}
    files = {
        place.path(ROUTES, name): render("route.py", **values),
        f"{place.source}/templates/{name.path}.html": render("route.html", **values),
    }
    path = test_path("routes", name)
    if test:
        files[path] = render("test_route.py", **values)
    return Draft(
        files=files,
        entries=(route_entry(place, name),),
        next_steps=next_steps(
            path if test else "", f"uv run just local-all    # http://127.0.0.1:8000/{name.slug}"
        ),
    )


def check_page_free(place: Place, name: Name) -> None:
    """Raise CommandError if another file has a page at the address of this one."""
    for url, (path, line) in find_pages(place.root / place.source):
        if url == f"/{name.slug}" and path != place.root / place.path(ROUTES, name):
            suggestion = "/".join((*name.folders, f"{name.leaf}_page"))
            raise CommandError(
                f"{path.relative_to(place.root)}:{line} has the page {url} already. "
                f"Try:  {suggestion}"
            )


def draft_of_route(place: Place, name: Name) -> Draft:
    """Draft a route as it was generated; raise CommandError if there is none of this name."""
    read_module(place, place.path(ROUTES, name), f"route {name.path}")
    return draft_route(place, name)


def route_entry(place: Place, name: Name) -> Entry:
    """Return a page's entry in tune.py: its router, under a name that no task or module has."""
    local = f"{name.dotted.replace('.', '_')}_router"
    return Entry("routes", place.module(ROUTES, name), "router", (local,))


def has_base(place: Place) -> bool:
    """Return whether the project has a base page with a block for content."""
    base = place.root / place.source / "templates" / "base.html"
    return base.is_file() and "block content" in base.read_text(encoding="utf-8", errors="replace")
