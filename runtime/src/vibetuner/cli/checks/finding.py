"""The doctor's finding about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "of_message"]

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A state, and what to do about it; ``cure`` is empty where nothing is to be done."""

    level: Level
    area: str
    text: str
    cure: str = ""


def of_message(area: str, message: str, level: Level = "error") -> Finding:
    """A finding from one of our errors, which say what is wrong, and then the cure.

    >>> of_message("Redis", "Redis can't be used: refused. Start it")
    Finding(level='error', area='Redis', text="Redis can't be used: refused", cure='Start it')
    """
    text, _, cure = message.partition(". ")
    return Finding(level, area, text, cure or "see the message")
