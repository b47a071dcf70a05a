"""The runtime's fixtures, for tests of reported faults."""

from __future__ import annotations

from tests.runtime.conftest import environment, fresh, running, settings, shop, stand_in, worker
from tests.runtime.services.conftest import start_smtp

__all__ = [
    "environment",
    "fresh",
    "running",
    "settings",
    "shop",
    "stand_in",
    "start_smtp",
    "worker",
]
