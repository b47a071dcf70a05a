"""What a person does with a dead letter: once, whoever presses, and however often."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

__all__ = ["Act", "retry_id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A letter was retried, or, where ``retried_as`` is None, discarded."""

    at: datetime
    by: str | None = None
    retried_as: str | None = None

    def fields(self) -> dict[str, Any]:
        """The fields that it gives the letter."""
        who = {"acted_by": self.by} if self.by else {}
        if self.retried_as is None:
            return {"discarded_at": self.at, **who}
        return {"retried_as": self.retried_as, "retried_at": self.at, **who}

    def to_json(self) -> str:
        """One line of JSON; :meth:`from_json` reads it back."""
        return json.dumps({"at": self.at.isoformat(), "by": self.by, "retried_as": self.retried_as})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "at": datetime.fromisoformat(values["at"])})


def retry_id(task_id: str) -> str:
    """The id under which a task is tried again: the same, whoever asks.

    >>> retry_id("7f3a") == retry_id("7f3a") != retry_id("7f3b")
    True
    """
    return hashlib.sha256(f"retry of {task_id}".encode()).hexdigest()[:32]
