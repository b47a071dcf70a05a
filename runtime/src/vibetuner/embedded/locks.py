"""Advisory locks that the kernel drops when their process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["is_held", "try_lock", "wait_for_lock"]


def try_lock(path: Path) -> int | None:
    """Lock a file; its descriptor, or None when someone else holds the lock.

    Closing the descriptor gives the lock back. It is closed on exec unless it is passed on.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def wait_for_lock(path: Path, *, patience: float, give_up: Callable[[], bool]) -> int | None:
    """Like :func:`try_lock`, for as long as ``patience`` seconds unless ``give_up()``."""
    deadline = time.monotonic() + patience
    while (descriptor := try_lock(path)) is None:
        if give_up() or time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    return descriptor


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock. Asking never keeps another from asking."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
