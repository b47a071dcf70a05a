"""A process's claim on the services."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from vibetuner.embedded.folder import SERVICES, TITLES, Folder, Service, file_errors, last_line
from vibetuner.embedded.locks import is_held, wait_for_lock
from vibetuner.embedded.packages import check_installed
from vibetuner.embedded.record import Record, read_record
from vibetuner.embedded.spawn import ensure_keeper
from vibetuner.embedded.users import User, sign_in
from vibetuner.errors import ServiceUnavailable

__all__ = ["Lease", "join", "starting"]

START_SECONDS = 15.0
# A keeper that stops holds the start lock until its servers are gone.
LOCK_SECONDS = 30.0
# A keeper that is killed while it starts is replaced; one that always dies has a reason.
MAX_KEEPERS = 3


def join(root: Path, services: Collection[Service], *, command: str) -> Lease:
    """Start the services or join those that run; returns when they answer.

    Raises:
        ServiceUnavailable: a package is missing, the folder can't be written, or a server does
            not come up within 15 seconds.
    """
    lease = Lease(root, services, command=command)
    lease.enter()
    return lease


class Lease:
    """While a lease is held, its services run.

    A killed process gives its lease back too. A process forked off while it is held keeps it.
    """

    def __init__(self, root: Path, services: Collection[Service], *, command: str) -> None:
        self.urls: dict[Service, str] = {}
        self._folder = Folder.of(root)
        self._services = tuple(service for service in SERVICES if service in services)
        self._command = command
        self._owner = os.getpid()
        self._path = self._folder.leases / f"{self._owner}-{secrets.token_hex(4)}.lease"
        self._descriptor: int | None = None
        self._left = threading.Event()
        self._guard = threading.Lock()

    def enter(self) -> None:
        """Claim the services and wait for them; blocks until then, or until :meth:`leave`."""
        check_installed(self._services)
        try:
            with file_errors(self._folder):
                self._claim()
                self._wait()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give the claim back, from any thread, as often as you like; the keeper does the rest."""
        self._left.set()
        with self._guard:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if os.getpid() == self._owner:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _claim(self) -> None:
        self._folder.leases.mkdir(parents=True, exist_ok=True)
        # Nobody else on the machine has business with the servers' data.
        self._folder.path.chmod(0o700)
        user = User(self._owner, self._command, self._services, time.time())
        with starting(self._folder, self._left) as got_it:
            if not got_it:
                return
            descriptor = sign_in(self._path, user)
            with self._guard:
                self._descriptor = descriptor
            ensure_keeper(self._folder)
        if self._left.is_set():
            self.leave()

    def _wait(self) -> None:
        joined, deadline = time.time(), time.monotonic() + START_SECONDS
        keepers = 1
        while not self._left.is_set():
            if not is_held(self._folder.keeper_lock):
                if keepers == MAX_KEEPERS:
                    reason = last_line(self._folder.keeper_log) or "its keeper died"
                    raise _unavailable("services", reason, self._folder.keeper_log)
                keepers += self._replace_keeper()
                continue
            record = read_record(self._folder)
            self.urls = {name: url for name in self._services if (url := record.url(name))}
            if len(self.urls) == len(self._services):
                return
            self._raise_if_failed(record, joined, late=time.monotonic() > deadline)
            time.sleep(0.02)

    def _replace_keeper(self) -> bool:
        with starting(self._folder, self._left) as got_it:
            return got_it and ensure_keeper(self._folder)

    def _raise_if_failed(self, record: Record, joined: float, *, late: bool) -> None:
        for name in self._services:
            one, log = record.services[name], self._folder.log(name)
            if one.state == "failed" and (one.since or 0) >= joined:
                raise _unavailable(TITLES[name], one.error, log)
            if late and one.state != "running":
                reason = f"no answer after {START_SECONDS:.0f} s; {last_line(log) or 'it is mute'}"
                raise _unavailable(TITLES[name], reason, log)


@contextmanager
def starting(folder: Folder, left: threading.Event) -> Iterator[bool]:
    """Hold the start lock; False when ``left`` is set before it comes free."""
    descriptor = wait_for_lock(folder.start_lock, patience=LOCK_SECONDS, give_up=left.is_set)
    if descriptor is None and not left.is_set():
        reason = f"another command has been starting or stopping them for {LOCK_SECONDS:.0f} s"
        raise _unavailable("services", reason, folder.keeper_log)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _unavailable(what: str, reason: str, log: Path) -> ServiceUnavailable:
    return ServiceUnavailable(f"Embedded {what} did not start: {reason}. See {log}")
