"""The folder ``.vibetuner/services/``, and the keeper's record of its servers in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from vibetuner.errors import ServiceUnavailable

Service = Literal["redis", "mongodb"]
State = Literal["stopped", "starting", "running", "failed"]
SERVICES: tuple[Service, ...] = ("redis", "mongodb")
TITLES: dict[Service, str] = {"redis": "Redis", "mongodb": "MongoDB"}


class Folder:
    """The paths below ``<root>/.vibetuner/services/``.

    Lock files are never removed: two processes could then hold "the same" lock on two files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Held while a process joins, and while the keeper decides to stop and stops.
        self.start_lock = path / "start.lock"
        # Held by the keeper while it lives.
        self.keeper_lock = path / "keeper.lock"
        # The leases, one file per user.
        self.leases = path / "leases"
        # Makes the keeper run without users.
        self.pin = path / "pinned"
        # Makes the keeper stop even if it has users.
        self.stop_request = path / "stop"
        # The keeper's state, as JSON.
        self.record = path / "state.json"
        self.keeper_log = path / "keeper.log"

    @classmethod
    def of(cls, root: Path) -> Folder:
        """Return the folder of the project at ``root``."""
        return cls(root.resolve() / ".vibetuner" / "services")

    def data(self, service: Service) -> Path:
        """Return the data folder of a server."""
        return self.path / service

    def log(self, service: Service) -> Path:
        """Return the log of a server."""
        return self.path / f"{service}.log"

    def lock(self, service: Service) -> Path:
        """Return the lock that a server's process holds, so that only one writes to the data."""
        return self.path / f"{service}.lock"


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """The state of one server, and the time since it is in it, ``since`` (Unix time)."""

    state: State = "stopped"
    port: int | None = None
    pid: int | None = None
    since: float | None = None
    error: str = ""

    def stopped(self) -> ServiceRecord:
        """Return the part that is kept while it is stopped: its port, for the next start."""
        return ServiceRecord(port=self.port)


@dataclass(frozen=True, slots=True)
class Record:
    """The keeper's pid and its servers; valid only while the keeper's lock is held."""

    keeper: int | None = None
    services: dict[Service, ServiceRecord] = field(
        default_factory=lambda: {service: ServiceRecord() for service in SERVICES}
    )

    def stopped(self) -> Record:
        """Return the record of a keeper that has ended."""
        services = {service: one.stopped() for service, one in self.services.items()}
        return replace(self, keeper=None, services=services)

    def url(self, service: Service) -> str | None:
        """Return the service's URL if it runs, else None."""
        one = self.services[service]
        return url_of(service, one.port) if one.state == "running" and one.port else None


def read_record(folder: Folder) -> Record:
    """Return the last record; an empty one if it is missing or malformed."""
    try:
        content = json.loads(folder.record.read_text(encoding="utf-8"))
        services = {name: ServiceRecord(**content["services"][name]) for name in SERVICES}
        return Record(content["keeper"], services)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Record()


def write_record(folder: Folder, record: Record) -> None:
    """Replace the record in one step."""
    draft = folder.record.with_suffix(".new")
    draft.write_text(json.dumps(asdict(record)), encoding="utf-8")
    draft.replace(folder.record)


def url_of(service: Service, port: int) -> str:
    """Return the URL at which a service listens.

    >>> url_of("redis", 6379)
    'redis://127.0.0.1:6379'
    """
    if service == "redis":
        return f"redis://127.0.0.1:{port}"
    return f"mongodb://127.0.0.1:{port}/?directConnection=true"


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, or ""."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def file_errors(folder: Folder) -> Iterator[None]:
    """Turn an error with a file into one line with its cure."""
    try:
        yield
    except OSError as error:
        raise ServiceUnavailable(
            f"Embedded services: {error.filename or folder.path}: {error.strerror or error}. "
            f"They need space and a writable folder at {folder.path}"
        ) from error
