"""What is done with dead letters, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vibetuner.errors import VibetunerError
    from vibetuner.tasks.dead_letters import DeadLetter

__all__ = ["Job", "Outcome"]


@dataclass(frozen=True, slots=True)
class Job:
    """What is done with each letter."""

    verb: str
    done: str
    next_step: str
    act: Callable[[str | DeadLetter, str | None], Awaitable[str | None]]


@dataclass(slots=True)
class Outcome:
    """What came of it: ids of tasks with their new ids, those refused with the reason."""

    done: dict[str, str | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    error: VibetunerError | None = None
