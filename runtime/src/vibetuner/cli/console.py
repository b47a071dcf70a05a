"""Coloured lines for commands that finish in less time than rich takes to import."""

from __future__ import annotations

import sys

from vibetuner.logs import is_colourful

__all__ = ["Console"]

CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


class Console:
    """Prints to the stdout of the time when this is made; lines are never wrapped."""

    def __init__(self) -> None:
        self._colourful = is_colourful(sys.stdout)

    def print(self, text: str = "", *, style: str | None = None, end: str = "\n") -> None:
        """Print ``text`` as it is, with a colour of :data:`CODES` if colours are on."""
        if style and self._colourful:
            text = f"\x1b[{CODES[style]}m{text}\x1b[0m"
        print(text, end=end)
