"""A project to stand in, for fixtures that load one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def in_a_project(stand_in: Callable[..., Path]) -> Path:
    """With nothing in it; the tasks are those of the test."""
    return stand_in()
