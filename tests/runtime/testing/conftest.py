"""A project for fixtures that load one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def in_a_project(stand_in: Callable[..., Path]) -> Path:
    """Change into a project without declarations."""
    return stand_in()
