"""A program that the supervisor runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

__all__ = ["Program"]


@dataclass(frozen=True, slots=True)
class Program:
    """A process: its name, the arguments after ``python``, and a socket that it inherits."""

    name: str
    arguments: tuple[str, ...]
    fd: int | None = None

    def supervised(self) -> Self:
        """The same, ending by itself when its parent is gone."""
        return replace(self, arguments=(*self.arguments, "--supervised"))
