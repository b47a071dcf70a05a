"""The runtime's stage, for tests of reported faults."""

from __future__ import annotations

from tests.runtime.conftest import environment, fresh, running, settings, shop, stand_in, worker

__all__ = ["environment", "fresh", "running", "settings", "shop", "stand_in", "worker"]
