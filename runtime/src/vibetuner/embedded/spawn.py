"""Brings a keeper to life: a process of its own, that outlives the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

from vibetuner.embedded.folder import SERVICES, Folder
from vibetuner.embedded.locks import try_lock
from vibetuner.embedded.record import read_record, write_record
from vibetuner.errors import ServiceUnavailable

__all__ = ["ensure_keeper"]


def ensure_keeper(folder: Folder) -> bool:
    """Start a keeper unless one is alive; whether it did. Needs the start lock.

    The keeper inherits its lock already locked, so that there is no moment in which it lives
    without one, and no two of them.
    """
    lock = try_lock(folder.keeper_lock)
    if lock is None:
        return False
    try:
        _forget_last(folder)
        _spawn(folder, lock)
    finally:
        os.close(lock)
    return True


def _forget_last(folder: Folder) -> None:
    folder.pin.unlink(missing_ok=True)
    folder.stop_request.unlink(missing_ok=True)
    write_record(folder, read_record(folder).stopped())
    for log in (folder.keeper_log, *(folder.log(service) for service in SERVICES)):
        with suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))


def _spawn(folder: Folder, lock: int) -> None:
    # -P: a project's own json.py must not stand in for the standard library's.
    command = [sys.executable, "-P", "-m", "vibetuner.embedded.keeper", str(folder.path), str(lock)]
    folder.keeper_log.touch(mode=0o600)
    with folder.keeper_log.open("ab") as log:
        # Returns at once: the keeper forks itself off, and is nobody's zombie when it ends.
        done = subprocess.run(
            command,
            check=False,
            pass_fds=(lock,),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    if done.returncode != 0:
        raise ServiceUnavailable(
            f"Embedded services: their keeper can't start. Its log: {folder.keeper_log}"
        )
