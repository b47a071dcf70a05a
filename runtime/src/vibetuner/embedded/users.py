"""The users of the services, each a locked file.

The kernel releases the lock of a process that dies, however it dies, so no pid is ever trusted.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vibetuner.embedded.folder import Folder, Service


@dataclass(frozen=True, slots=True)
class User:
    """A process that uses the services; ``since`` is in Unix time."""

    pid: int
    command: str
    services: tuple[Service, ...]
    since: float


def live_users(folder: Folder) -> list[User]:
    """Return the users whose process is alive, the oldest first."""
    users = (_read_user(path) for path in folder.leases.glob("*.lease") if is_held(path))
    return sorted((user for user in users if user), key=lambda user: user.since)


def _read_user(path: Path) -> User | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # pragma: no cover - it has left since it was listed
        return None
    return User(**{**content, "services": tuple(content["services"])})


def sign_in(path: Path, user: User) -> int:
    """Write a lease; return the descriptor that keeps it alive. Needs the start lock."""
    draft = path.with_suffix(".new")
    descriptor = try_lock(draft)
    assert descriptor is not None  # noqa: S101 - its name is random, and nobody looks at drafts
    try:
        os.write(descriptor, json.dumps(asdict(user)).encode())
        # A lease is complete and locked before anybody sees it.
        draft.rename(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove_dead(folder: Folder) -> None:
    """Remove the leases of killed users. Needs the start lock."""
    for path in folder.leases.glob("*.*"):
        if not is_held(path):
            path.unlink(missing_ok=True)


def try_lock(path: Path) -> int | None:
    """Lock a file and return its descriptor; None if another process holds the lock.

    Closing the descriptor releases the lock. The descriptor is closed on exec unless it is passed
    on.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise  # pragma: no cover - Ctrl-C just then
    return descriptor


def wait_for_lock(path: Path, *, patience: float, give_up: Callable[[], bool]) -> int | None:
    """Repeat :func:`try_lock` for ``patience`` seconds, or until ``give_up()`` is true."""
    deadline = time.monotonic() + patience
    while (descriptor := try_lock(path)) is None:
        if give_up() or time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    return descriptor


def is_held(path: Path) -> bool:
    """Return whether a live process holds the lock; many may ask at once."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
