"""Loading code without looking for garbage in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["loading"]

# New objects before a search of the young ones, then how many searches before one of the older.
THRESHOLDS = (5000, 20, 50)


@contextmanager
def loading() -> Iterator[None]:
    """Hold the garbage collector for the length of the block, and keep what is there by then.

    Modules live as long as the process: to look for garbage in them makes a start a tenth longer,
    and each later search as well. From then on it looks less often than it would by default: tasks
    and requests that run hold hundreds of objects that are no garbage, and are freed without it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()
