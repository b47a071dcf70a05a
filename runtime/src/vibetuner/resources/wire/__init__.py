"""A small Redis connection for what is called thousands of times a second."""

from __future__ import annotations

from vibetuner.resources.wire.address import Address
from vibetuner.resources.wire.connection import Wire

__all__ = ["Address", "Wire"]
