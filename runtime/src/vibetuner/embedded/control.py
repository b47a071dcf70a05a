"""What a person does with the services: look, keep them up, stop them."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from vibetuner.embedded.folder import SERVICES, Folder, Service, file_errors
from vibetuner.embedded.leases import join, starting
from vibetuner.embedded.locks import is_held
from vibetuner.embedded.record import Record, State, read_record
from vibetuner.embedded.spawn import ensure_keeper
from vibetuner.embedded.users import User, live_users
from vibetuner.errors import CommandError, ServiceUnavailable

__all__ = ["ServiceStatus", "ServicesStatus", "down", "status", "up"]

STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service; ``orphaned`` is one whose keeper was killed and that still runs."""

    name: Service
    state: State | Literal["orphaned"]
    url: str | None
    pid: int | None
    since: datetime | None
    data_bytes: int
    log: Path
    error: str


@dataclass(frozen=True, slots=True)
class ServicesStatus:
    """All services, and who uses them."""

    services: tuple[ServiceStatus, ...]
    users: tuple[User, ...]
    pinned: bool
    keeper: int | None

    @property
    def running(self) -> bool:
        """Whether something runs and nothing of it failed."""
        states = {service.state for service in self.services}
        return "failed" not in states and bool(states & {"running", "starting"})


def status(root: Path) -> ServicesStatus:
    """What runs, and for whom; changes nothing."""
    folder = Folder.of(root)
    with file_errors(folder):
        alive = is_held(folder.keeper_lock)
        record = read_record(folder)
        return ServicesStatus(
            services=tuple(
                _service_status(folder, record if alive else record.stopped(), name)
                for name in SERVICES
            ),
            users=tuple(live_users(folder)),
            pinned=alive and folder.pin.exists(),
            keeper=record.keeper if alive else None,
        )


def up(root: Path, services: Collection[Service] = SERVICES) -> ServicesStatus:
    """Start the services, and keep them up without users until :func:`down`.

    A pin lasts as long as its keeper: after a reboot nothing stays up by surprise.

    Raises:
        ServiceUnavailable: they can't be started.
    """
    folder = Folder.of(root)
    with join(root, services, command="services up"), file_errors(folder):
        folder.pin.touch()
    return status(root)


def down(root: Path, *, force: bool = False) -> None:
    """Stop the services; returns when they are gone.

    Raises:
        CommandError: others use them, and ``force`` is not set.
        ServiceUnavailable: they do not stop.
    """
    folder = Folder.of(root)
    with file_errors(folder):
        if not force:
            _refuse_if_used(folder)
        _adopt_orphans(folder)
        folder.pin.unlink(missing_ok=True)
        if force and is_held(folder.keeper_lock):
            folder.stop_request.touch()
        _await_end(folder, force=force)


def _refuse_if_used(folder: Folder) -> None:
    users = ", ".join(f"{user.command} (pid {user.pid})" for user in live_users(folder))
    if users:
        raise CommandError(
            f"Embedded services are in use by {users}. "
            "Stop that first, or run:  vibetuner services down --force"
        )


def _adopt_orphans(folder: Folder) -> None:
    """Give servers whose keeper was killed a new one: without users it ends them and itself."""
    orphaned = any(is_held(folder.lock(service)) for service in SERVICES)
    if orphaned and not is_held(folder.keeper_lock):
        with starting(folder, threading.Event()):
            ensure_keeper(folder)


def _await_end(folder: Folder, *, force: bool) -> None:
    first: int | None = None
    deadline = time.monotonic() + STOP_SECONDS
    while is_held(folder.keeper_lock):
        keeper = read_record(folder).keeper
        first = first or keeper
        if keeper not in {None, first}:
            return  # ours is gone, somebody started the next one
        if not force:
            _refuse_if_used(folder)
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"Embedded services: their keeper (pid {first}) does not stop. "
                f"See {folder.keeper_log}"
            )
        time.sleep(0.02)


def _service_status(folder: Folder, record: Record, name: Service) -> ServiceStatus:
    one = record.services[name]
    orphaned = record.keeper is None and is_held(folder.lock(name))
    return ServiceStatus(
        name=name,
        state="orphaned" if orphaned else one.state,
        url=record.url(name),
        pid=one.pid,
        since=datetime.fromtimestamp(one.since, UTC) if one.since else None,
        data_bytes=sum(_size(path) for path in folder.data(name).rglob("*")),
        log=folder.log(name),
        error=one.error,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
