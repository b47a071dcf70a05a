"""The services around a process, and for commands that show, keep and stop them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vibetuner.embedded.folder import (
    SERVICES,
    Folder,
    Record,
    Service,
    State,
    User,
    file_errors,
    is_held,
    live_users,
    read_record,
)
from vibetuner.embedded.leases import Lease, ensure_keeper, join, starting
from vibetuner.errors import CommandError, ServiceUnavailable, SettingsError, explain_embedded
from vibetuner.project import data_dir

if TYPE_CHECKING:
    from vibetuner.config import Settings

STOP_SECONDS = 30.0

SETTINGS: dict[Service, str] = {"redis": "redis_url", "mongodb": "mongodb_url"}


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The state of one service; ``orphaned`` means that it outlived its killed keeper."""

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
    """The state of all services, and their users."""

    services: tuple[ServiceStatus, ...]
    users: tuple[User, ...]
    pinned: bool
    keeper: int | None

    @property
    def running(self) -> bool:
        """Return whether a service runs and none failed."""
        states = {service.state for service in self.services}
        return "failed" not in states and bool(states & {"running", "starting"})


def status(root: Path) -> ServicesStatus:
    """Return the running services and their users, without changing anything."""
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
    """Start the services, and keep them running without users until :func:`down`.

    This lasts as long as the keeper: after a reboot, nothing runs unexpectedly.

    Raises ServiceUnavailable if they can't be started.
    """
    folder = Folder.of(root)
    with join(root, services, command="services up"), file_errors(folder):
        folder.pin.touch()
    return status(root)


def down(root: Path, *, force: bool = False) -> None:
    """Stop the services, and return when they have ended.

    Raises:
        CommandError: other processes use them, and ``force`` is not set.
        ServiceUnavailable: they do not stop within 30 seconds.
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


def embedded_services(settings: Settings) -> tuple[Service, ...]:
    """Return the services whose setting is ``embedded``."""
    return tuple(name for name, field in SETTINGS.items() if getattr(settings, field) == "embedded")


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Settings]:
    """Yield the settings with the URLs of running servers in place of ``embedded``.

    Raises:
        SettingsError: ENVIRONMENT is production.
        ServiceUnavailable: a server does not start.
    """
    services = embedded_services(settings)
    if not services:
        yield settings
        return
    if settings.environment == "production":
        raise SettingsError(explain_embedded(SETTINGS[services[0]].upper()))
    command = " ".join((Path(sys.argv[0] or "python").name, *sys.argv[1:3]))
    lease = Lease(services_root(), services, command=command)
    try:
        # If this is cancelled, leave() ends the thread's wait and releases its claim.
        await asyncio.to_thread(lease.enter)
        yield settings.model_copy(update={SETTINGS[name]: url for name, url in lease.urls.items()})
    finally:
        lease.leave()


def running_services(settings: Settings) -> Settings:
    """Return the settings with the URLs of embedded servers that run; start none.

    Raises ServiceUnavailable if their record can't be read.
    """
    services = embedded_services(settings)
    if not services:
        return settings
    folder = Folder.of(services_root())
    with file_errors(folder):
        record = read_record(folder)
        if not is_held(folder.keeper_lock):
            record = record.stopped()
    urls = {SETTINGS[name]: record.url(name) for name in services}
    return settings.model_copy(update={field: url for field, url in urls.items() if url})


def services_root() -> Path:
    """Return the folder that contains ``.vibetuner/``; create it if it is missing.

    Raises ServiceUnavailable if it can't be created.
    """
    with file_errors(Folder.of(Path.cwd())):
        return data_dir().parent


def _refuse_if_used(folder: Folder) -> None:
    users = dict.fromkeys(f"{user.command} (pid {user.pid})" for user in live_users(folder))
    if users:
        raise CommandError(
            f"Embedded services are in use by {', '.join(users)}. "
            "Stop that first, or run:  vibetuner services down --force"
        )


def _adopt_orphans(folder: Folder) -> None:
    """Start a keeper for orphaned servers; it stops them if they have no users."""
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
            return  # that keeper has ended, and another process started the next one
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
    with suppress(FileNotFoundError):  # the server deletes files
        if path.is_file():
            return path.stat().st_size
    return 0
