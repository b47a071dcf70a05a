"""How does it compare with other task queues, each tuned for this?"""

from __future__ import annotations

from contest import compare
from lab import Table


def measure(*, beside: bool) -> Table:
    """Measure all in turn; the others are tuned, ours has nothing to tune."""
    del beside
    return compare(tuned=True)
