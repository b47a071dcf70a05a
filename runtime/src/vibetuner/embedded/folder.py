"""What lies in ``.vibetuner/services/``, and the names of the services."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vibetuner.errors import ServiceUnavailable

__all__ = ["SERVICES", "TITLES", "Folder", "Service", "file_errors", "last_line", "url_of"]

Service = Literal["redis", "mongodb"]
SERVICES: tuple[Service, ...] = ("redis", "mongodb")
TITLES: dict[Service, str] = {"redis": "Redis", "mongodb": "MongoDB"}


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths below ``<root>/.vibetuner/services/``.

    Lock files are never removed: two processes could then hold "the same" lock on two files.
    """

    path: Path

    @classmethod
    def of(cls, root: Path) -> Folder:
        """The folder of the project at ``root``."""
        return cls(root.resolve() / ".vibetuner" / "services")

    @property
    def start_lock(self) -> Path:
        """Held while a process joins, and while the keeper decides to stop and stops."""
        return self.path / "start.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held by the keeper for its life."""
        return self.path / "keeper.lock"

    @property
    def leases(self) -> Path:
        """One file a user."""
        return self.path / "leases"

    @property
    def pin(self) -> Path:
        """While it exists, the keeper stays without users."""
        return self.path / "pinned"

    @property
    def stop_request(self) -> Path:
        """When it appears, the keeper stops although it has users."""
        return self.path / "stop"

    @property
    def record(self) -> Path:
        """What the keeper last said of itself."""
        return self.path / "state.json"

    @property
    def keeper_log(self) -> Path:
        """What the keeper writes."""
        return self.path / "keeper.log"

    def data(self, service: Service) -> Path:
        """Where a server keeps its data."""
        return self.path / service

    def log(self, service: Service) -> Path:
        """What a server writes."""
        return self.path / f"{service}.log"

    def lock(self, service: Service) -> Path:
        """Held by a server's own process for its life: one writer to the data."""
        return self.path / f"{service}.lock"


def url_of(service: Service, port: int) -> str:
    """The URL at which a service listens.

    >>> url_of("redis", 6379)
    'redis://127.0.0.1:6379'
    """
    if service == "redis":
        return f"redis://127.0.0.1:{port}"
    return f"mongodb://127.0.0.1:{port}/?directConnection=true"


def last_line(log: Path) -> str:
    """The last line of a log that says something; "" when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def file_errors(folder: Folder) -> Iterator[None]:
    """Turn a file that can't be read or written into one line with its cure."""
    try:
        yield
    except OSError as error:
        raise ServiceUnavailable(
            f"Embedded services: {error.filename or folder.path}: {error.strerror or error}. "
            f"They need space and a writable folder at {folder.path}"
        ) from error
