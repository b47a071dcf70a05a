"""The checks of the doctor, and what one of them finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vibetuner.config import Settings

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A state, and the cure; ``cure`` is empty if there is nothing to do."""

    level: Level
    area: str
    text: str
    cure: str = ""


def grave(settings: Settings) -> Level:
    """Return the level of a risk that production must not take."""
    return "error" if settings.environment == "production" else "warning"


def of_message(area: str, message: str) -> Finding:
    """Return a finding for one of our errors, which name the problem, then the cure.

    >>> of_message("Redis", "Redis can't be used: refused. Start it")
    Finding(level='error', area='Redis', text="Redis can't be used: refused", cure='Start it')
    """
    text, _, cure = message.partition(". ")
    return Finding("error", area, text, cure.removeprefix("Run:  ") or "see the message")


def uncapitalized(cure: str) -> str:
    """Return the sentence of an error's cure as findings write theirs.

    >>> uncapitalized("Start its replicas")
    'start its replicas'
    """
    return cure[0].lower() + cure[1:]
