"""Fills in the navigation where it names a folder: with all of its pages, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["on_config"]


def on_config(config: Any) -> Any:
    """Fill in the navigation; MkDocs calls this before it reads the pages."""
    config.nav = [_fill(item, Path(config.docs_dir)) for item in config.nav]
    return config


def _fill(item: Any, docs: Path) -> Any:
    match item:
        case dict():
            return {title: _fill(inner, docs) for title, inner in item.items()}
        case list():
            return [_fill(inner, docs) for inner in item]
        case str() if item.endswith("/"):
            return _pages(docs, item)
        case _:
            return item


def _pages(docs: Path, folder: str) -> list[str]:
    index = docs / folder / "index.md"
    pages = sorted((docs / folder).glob("*.md"), key=lambda path: (path != index, path.stem))
    return [path.relative_to(docs).as_posix() for path in pages]
