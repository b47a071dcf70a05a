"""Lines with a touch of colour, for commands whose whole work takes less time than to load rich."""

from __future__ import annotations

import sys

from vibetuner.logs import is_colourful

__all__ = ["Console"]

CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


class Console:
    """Prints to stdout as it is when this is made; a line stays whole, however long."""

    def __init__(self) -> None:
        self._colourful = is_colourful(sys.stdout)

    def print(self, text: str = "", *, style: str | None = None, end: str = "\n") -> None:
        """Print ``text`` as it is, in one of :data:`CODES` where colour is wanted."""
        if style and self._colourful:
            text = f"\x1b[{CODES[style]}m{text}\x1b[0m"
        print(text, end=end)
