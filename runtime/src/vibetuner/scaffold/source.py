"""A Python file as text whose places ``ast`` names."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

__all__ = ["Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """Text, its tree, and where its lines begin.

    >>> source = Source.parse("a = 1\\r\\nb = 'ü', 2\\r\\n")
    >>> source.newline, source.text[source.start(source.tree.body[1]):]
    ('\\r\\n', "b = 'ü', 2\\r\\n")
    """

    text: str
    tree: ast.Module
    lines: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read a file's text; raises ValueError, which names the line, when it is no Python."""
        # A byte order mark would be part of the first line, and of no place that ast names.
        plain = text.removeprefix("\ufeff")
        try:
            tree = ast.parse(plain)
        except SyntaxError as error:
            raise ValueError(f"line {error.lineno or 0}: {error.msg}") from None
        # As Python counts lines: neither form feeds nor Unicode's own separators end one.
        return cls(plain, tree, tuple(re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", plain)))

    @property
    def newline(self) -> str:
        """How lines end here."""
        found = re.search(r"\r\n|\r|\n", self.text)
        return found[0] if found else "\n"

    def start(self, node: ast.expr | ast.stmt | ast.alias | ast.keyword) -> int:
        """Where a node begins, in characters."""
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.alias | ast.keyword) -> int:
        """Where a node ends, in characters."""
        return self.offset(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def next_line(self, node: ast.expr | ast.stmt) -> int:
        """Where the line after a node begins."""
        return self.line_start((node.end_lineno or node.lineno) + 1)

    def line_start(self, number: int) -> int:
        """Where a line begins, counted from 1; one past the last is the end of the text."""
        return sum(map(len, self.lines[: number - 1]))

    def offset(self, line: int, column: int) -> int:
        """A place in characters from ``ast``'s line and column in UTF-8 bytes."""
        before = self.lines[line - 1].encode()[:column].decode() if column else ""
        return self.line_start(line) + len(before)
