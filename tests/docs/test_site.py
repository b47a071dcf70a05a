"""The built documentation: no missing page, no dangling link, and nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from inspect import isclass, isroutine
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """The anchors, the links and the files of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the ids, links and files that a tag names."""
        values: dict[str, Any] = dict(attrs)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        if address := values.get(FETCHED.get(tag, "")):
            self.fetched.add(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Build the documentation strictly, and return its pages by their paths."""
    pytest.importorskip("material", reason="run with:  uv run --group docs pytest")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    # The links of 404.html are made for a server that answers at the root.
    return {path: Page(path) for path in folder.rglob("*.html") if path.name != "404.html"}


def test_every_link_within_the_site_leads_to_a_page_and_a_place_on_it(site: dict[Path, Page]):
    """Each link within the site leads to a page and an anchor that exist.

    MkDocs doesn't check links in tables, docstrings and the navigation.
    """
    dangling = [
        f"{path.name}: {link}"
        for path, page in site.items()
        for link in page.links
        if not is_elsewhere(link) and not leads_somewhere(path, link, site)
    ]

    assert dangling == []


def test_the_browser_fetches_nothing_from_anybody_else(site: dict[Path, Page]):
    """No page fetches a font, script or picture from another server."""
    assert {address for page in site.values() for address in page.fetched} != set()
    assert [
        f"{path.name}: {address}"
        for path, page in site.items()
        for address in page.fetched
        if is_elsewhere(address)
    ] == []


def test_each_public_name_of_a_module_is_on_its_page(site: dict[Path, Page]):
    """Each public function and class of a documented module has an anchor on its page."""
    pages = {path.stem: page for path, page in site.items() if path.parent.name == "modules"}
    missing = [
        f"{name}.{item}"
        for name, page in pages.items()
        for item in getattr(import_module(name), "__all__", [])
        if isroutine(thing := getattr(import_module(name), item, None)) or isclass(thing)
        if thing.__name__.lower() not in page.ids
    ]

    assert "vibetuner.sse" in pages
    assert missing == []


def test_a_bar_in_a_table_has_no_backslash_on_the_page(site: dict[Path, Page]):
    """No built page shows the backslash that GitHub needs before a bar in a table."""
    assert [path.name for path in site if "\\|" in path.read_text("utf-8")] == []


def test_no_page_needs_a_library_for_a_picture(site: dict[Path, Page]):
    """No page has a Mermaid block, for which a browser would have to fetch a library."""
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "docs").rglob("*.md"))

    assert "```mermaid" not in sources


def is_elsewhere(link: str) -> bool:
    """Return whether a link leaves the site."""
    return bool(re.match(r"[a-z]+:|//", link))


def leads_somewhere(path: Path, link: str, site: dict[Path, Page]) -> bool:
    """Return whether the target of a link exists."""
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.exists():
        return False
    place = unquote(parts.fragment)
    return not place or place == "__skip" or (target in site and place in site[target].ids)
