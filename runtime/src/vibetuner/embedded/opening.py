"""The services as an async context manager around a process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vibetuner.embedded.folder import Folder, Service, file_errors, read_record
from vibetuner.embedded.leases import Lease
from vibetuner.errors import SettingsError, explain_embedded
from vibetuner.project import data_dir

if TYPE_CHECKING:
    from vibetuner.config import Settings

SETTINGS: dict[Service, str] = {"redis": "redis_url", "mongodb": "mongodb_url"}


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
    lease = Lease(services_root(), services, command=_command())
    try:
        # If this is cancelled, leave() ends the thread's wait and releases its claim.
        await asyncio.to_thread(lease.enter)
        yield settings.model_copy(update={SETTINGS[name]: url for name, url in lease.urls.items()})
    finally:
        lease.leave()


def running_services(settings: Settings) -> Settings:
    """Return the settings with the URLs of embedded servers that run; start none."""
    services = embedded_services(settings)
    if not services:
        return settings
    record = read_record(Folder.of(services_root()))
    urls = {SETTINGS[name]: record.url(name) for name in services}
    return settings.model_copy(update={field: url for field, url in urls.items() if url})


def services_root() -> Path:
    """Return the folder that contains ``.vibetuner/``; create it if it is missing.

    Raises:
        ServiceUnavailable: it can't be created.
    """
    with file_errors(Folder.of(Path.cwd())):
        return data_dir().parent


def _command() -> str:
    return " ".join((Path(sys.argv[0] or "python").name, *sys.argv[1:3]))
