"""Loading code without looking for garbage in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["loading"]


@contextmanager
def loading() -> Iterator[None]:
    """Hold the garbage collector for the length of the block, and keep what is there by then.

    Modules live as long as the process: to look for garbage in them makes a start a tenth longer,
    and each later search as well.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
