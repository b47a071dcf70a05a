"""The fast path: fewer steps between a message and its task's recorded end."""

from __future__ import annotations

from vibetuner.tasks.fast.worker import FastWorker

__all__ = ["FastWorker"]
