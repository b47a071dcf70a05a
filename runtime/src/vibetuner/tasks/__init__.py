"""Background work: tasks, the worker that runs them, and the resources that they use."""

from __future__ import annotations

from vibetuner.tasks.depends import WorkerDepends

__all__ = ["WorkerDepends"]
