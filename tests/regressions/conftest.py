"""The runtime's stage, for tests of reported faults."""

from __future__ import annotations

from tests.runtime.conftest import fresh, running, settings, stand_in

__all__ = ["fresh", "running", "settings", "stand_in"]
