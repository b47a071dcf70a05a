"""Helpers for tests of a project; the pytest plugin provides the fixtures.

::

    async def test_the_report_is_written(vibetuner_worker):
        await write_report.enqueue("2026-07")
        await vibetuner_worker.run_until_idle()
        assert report_path("2026-07").exists()

A test module imports from here only :func:`replay_fuzz`, and types for annotations.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vibetuner.testing.holding import held_open, name_database
    from vibetuner.testing.mocks import MockTasks
    from vibetuner.testing.overrides import SettingsOverride
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

HOMES = {
    "ManualWorker": "worker",
    "MockTasks": "mocks",
    "SettingsOverride": "overrides",
    "held_open": "holding",
    "name_database": "holding",
    "replay_fuzz": "replay",
}


def __getattr__(name: str) -> Any:
    # Every pytest run imports this package for the plugin, and few need its contents.
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
