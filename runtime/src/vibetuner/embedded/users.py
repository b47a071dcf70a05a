"""Who uses the services: the kernel says which of the lease files belong to a live process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from vibetuner.embedded.folder import Folder, Service
from vibetuner.embedded.locks import is_held, try_lock

__all__ = ["User", "live_users", "remove_dead", "sign_in"]


@dataclass(frozen=True, slots=True)
class User:
    """A process that uses the services; ``since`` in seconds of the epoch."""

    pid: int
    command: str
    services: tuple[Service, ...]
    since: float


def live_users(folder: Folder) -> list[User]:
    """All users whose process is alive, the longest-standing first."""
    users = (_read_user(path) for path in folder.leases.glob("*.lease") if is_held(path))
    return sorted((user for user in users if user), key=lambda user: user.since)


def _read_user(path: Path) -> User | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return User(**{**content, "services": tuple(content["services"])})


def sign_in(path: Path, user: User) -> int:
    """Write a lease; the descriptor that keeps it alive. Needs the start lock."""
    draft = path.with_suffix(".new")
    descriptor = try_lock(draft)
    if descriptor is None:
        raise AssertionError("a lease's name is random, and nobody looks at drafts")
    try:
        os.write(descriptor, json.dumps(asdict(user)).encode())
        # A lease is whole and locked before anybody sees it.
        draft.rename(path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove_dead(folder: Folder) -> None:
    """Remove what killed users left behind. Needs the start lock."""
    for path in folder.leases.glob("*.*"):
        if not is_held(path):
            path.unlink(missing_ok=True)
