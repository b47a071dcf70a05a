"""How does it compare with other task queues, each as it comes?"""

from __future__ import annotations

from contest import compare
from lab import Table


def measure(*, beside: bool) -> Table:
    """All in turns, with their defaults but for the concurrency."""
    del beside
    return compare(tuned=False)
