"""How does it compare with other task queues, all with their defaults?"""

from __future__ import annotations

from contest import compare
from lab import Table


def measure(*, beside: bool) -> Table:
    """Measure all in turn, with their defaults except the concurrency."""
    del beside
    return compare(tuned=False)
