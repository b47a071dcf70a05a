"""The code blocks of a page, and their notes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "docs" / "reference" / "modules"
# The pages of modules show declarations, and examples that the doctests run.
PAGES = (
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent != MODULES),
)

FENCE = re.compile(
    r"^(?P<mark>```+)(?P<language>[a-z]*)[^\n]*\n(?P<text>.*?)^(?P=mark)$", re.MULTILINE | re.DOTALL
)
NOTE = re.compile(r"<!-- (?P<note>[^>]*) -->\n+\Z")
FILE = re.compile(r"(?:#|\{#|<!--) (?P<path>(?:src|tests)/\S+)")

# Patterns of what differs from run to run.
CHANGING = {
    r"\x1b\[[\d;]*m": "",
    r"\b[0-9a-f]{8,}(…|\b)": "ID",
    r"\bup \d+:\d\d:\d\d\b": "up TIME",
    r"\b\d\d:\d\d:\d\d(\.\d+)?Z?\b": "TIME",
    r"\b\d{4}-\d\d-\d\d\b": "DATE",
    r"\b\d+(\.\d+)? (ms|s|kB|MB)\b": "SOME",
    r"\b127\.0\.0\.1:(?!8000\b|11111\b)\d+": "127.0.0.1:PORT",
    r"\bpid \d+": "pid N",
    r"(?m) +$": "",
    r" {2,}": "  ",
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the comment right above it."""

    page: Path
    line: int
    language: str
    text: str
    note: str
    output: str | None = None

    @property
    def file(self) -> str | None:
        """Return the path that the first line names; a block with a path is a file."""
        found = FILE.match(self.text)
        return found["path"] if found else None

    @property
    def why_not_run(self) -> str | None:
        """Return the reason that the page gives for not running the block."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else None

    @property
    def place(self) -> str:
        """Return page and line, as an error names them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order; a ``text`` block is the output of the one before it."""
    blocks: list[Block] = []
    for block in _fences(page):
        last = blocks[-1] if blocks else None
        if block.language == "text" and last and last.output is None and not block.note:
            blocks[-1] = Block(**{**vars(last), "output": block.text})
        else:
            blocks.append(block)
    return blocks


def _fences(page: Path) -> Iterator[Block]:
    source = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(source):
        note = NOTE.search(source, 0, found.start())
        line = source.count("\n", 0, found.start()) + 1
        yield Block(page, line, found["language"], found["text"], note["note"] if note else "")


def differs(expected: str, found: str) -> str | None:
    """Return the expected and the actual output if they differ, else None.

    Times, ids and the like are ignored, and ``...`` matches any text.

    >>> differs("12:00:01 INFO done in 4.2 s\\n", "09:30:00 INFO done in 12 ms\\n")
    >>> differs("first\\n...\\nlast\\n", "first\\nsecond\\nlast\\n")
    >>> differs("one\\n", "two\\n") is None
    False
    """
    wanted, came = settled(expected), settled(found)
    pattern = re.escape(wanted).replace(re.escape("..."), ".*")
    if re.fullmatch(pattern, came, re.DOTALL):
        return None
    return f"the page says:\n{wanted}\nbut this came:\n{came}"


def settled(text: str) -> str:
    """Return a text without the values that change from run to run."""
    for pattern, name in CHANGING.items():
        text = re.sub(pattern, name, text)
    return text.strip()
