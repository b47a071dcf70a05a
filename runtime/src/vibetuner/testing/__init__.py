"""Helpers for tests of a project; the pytest plugin provides the fixtures.

::

    async def test_the_report_is_written(vibetuner_worker):
        await write_report.enqueue("2026-07")
        await vibetuner_worker.run_until_idle()
        assert report_path("2026-07").exists()

A test module imports from here only :func:`replay_fuzz`, and types for annotations.
"""

from __future__ import annotations

from vibetuner.testing.fixtures import SettingsOverride, held_open, name_database
from vibetuner.testing.mocks import MockTasks
from vibetuner.testing.replay import replay_fuzz
from vibetuner.testing.worker import ManualWorker

__all__ = [
    "ManualWorker",
    "MockTasks",
    "SettingsOverride",
    "held_open",
    "name_database",
    "replay_fuzz",
]
