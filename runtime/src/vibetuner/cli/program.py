"""A program for the supervisor to run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Program:
    """A process: its name, the arguments after ``python``, and a socket to inherit."""

    name: str
    arguments: tuple[str, ...]
    fd: int | None = None

    def supervised(self) -> Self:
        """Return the same program, made to stop if its parent disappears."""
        return replace(self, arguments=(*self.arguments, "--supervised"))
