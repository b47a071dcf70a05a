"""Background work: tasks, the worker that runs them, and what they may ask for."""

from __future__ import annotations

from vibetuner.tasks.depends import WorkerDepends

__all__ = ["WorkerDepends"]
