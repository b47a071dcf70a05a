"""Imports code without garbage collection."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["loading"]

# New objects before a collection of the young generation, then collections before an older one.
THRESHOLDS = (5000, 20, 50)


@contextmanager
def loading() -> Iterator[None]:
    """Turn off the garbage collector for the block, and exempt the objects made in it.

    Modules live as long as the process: searching them for garbage makes a start a tenth longer,
    and each later collection, too. Afterwards it collects less often than by default: running tasks
    and requests hold hundreds of objects that are not garbage, and are freed without it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()
