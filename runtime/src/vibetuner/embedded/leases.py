"""A process's claim on the embedded services, and the start of their keeper."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from vibetuner.embedded.folder import (
    SERVICES,
    TITLES,
    Folder,
    Record,
    Service,
    User,
    check_installed,
    file_errors,
    is_held,
    last_line,
    read_record,
    sign_in,
    try_lock,
    wait_for_lock,
    write_record,
)
from vibetuner.errors import ServiceUnavailable

# On a busy machine, the MongoDB server takes 10 s for its imports.
START_SECONDS = 30.0
# A keeper that stops holds the start lock until its servers are gone.
LOCK_SECONDS = 30.0
# A keeper that is killed during its start is replaced; one that dies each time is reported.
MAX_KEEPERS = 3


def join(root: Path, services: Collection[Service], *, command: str) -> Lease:
    """Start the services or join running ones; return when they answer.

    Raises ServiceUnavailable if a package is missing, the folder can't be written to, or a server
    does not answer within 30 seconds.
    """
    lease = Lease(root, services, command=command)
    lease.enter()
    return lease


class Lease:
    """A claim that keeps its services running.

    The kernel releases it when its process dies. A forked child keeps it.
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
        """Claim the services and wait until they answer, or until :meth:`leave` is called."""
        check_installed(self._services)
        try:
            with file_errors(self._folder):
                self._claim()
                self._wait()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Release the claim, from any thread, any number of times."""
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
        # Nobody else on the machine should see the servers' data.
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
        before, deadline = read_record(self._folder), time.monotonic() + START_SECONDS
        keepers = 1
        while not self._left.is_set():
            if not is_held(self._folder.keeper_lock):
                if keepers == MAX_KEEPERS:
                    reason = last_line(self._folder.keeper_log) or "its keeper died"
                    raise _unavailable("services", reason, self._folder.keeper_log)
                with starting(self._folder, self._left) as got_it:
                    keepers += got_it and ensure_keeper(self._folder)
                continue
            record = read_record(self._folder)
            self.urls = {name: url for name in self._services if (url := record.url(name))}
            if len(self.urls) == len(self._services):
                return
            self._raise_if_failed(record, before, late=time.monotonic() > deadline)
            time.sleep(0.02)

    def _raise_if_failed(self, record: Record, before: Record, *, late: bool) -> None:
        for name in self._services:
            one, log = record.services[name], self._folder.log(name)
            if one.state == "failed" and one != before.services[name]:  # clocks may be set back
                raise _unavailable(TITLES[name], one.error, log)
            if late and one.state != "running":
                words = last_line(log) or "its log is empty"
                reason = f"no answer after {START_SECONDS:.0f} s; {words}"
                raise _unavailable(TITLES[name], reason, log)


@contextmanager
def starting(folder: Folder, left: threading.Event) -> Iterator[bool]:
    """Hold the start lock; yield False if ``left`` is set before the lock is free."""
    descriptor = wait_for_lock(folder.start_lock, patience=LOCK_SECONDS, give_up=left.is_set)
    if descriptor is None and not left.is_set():
        reason = f"another command has been starting or stopping them for {LOCK_SECONDS:.0f} s"
        raise _unavailable("services", reason, folder.keeper_log)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def ensure_keeper(folder: Folder) -> bool:
    """Start a keeper unless one is alive; return whether it did. Needs the start lock.

    The keeper inherits its lock already locked, so it never runs without it, and never twice.
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
    # -P: a project's own json.py must not shadow the standard library's.
    command = [sys.executable, "-P", "-m", "vibetuner.embedded.keeper", str(folder.path), str(lock)]
    folder.keeper_log.touch(mode=0o600)
    with folder.keeper_log.open("ab") as log:
        # Returns at once: the keeper forks, and its parent exits, so it never becomes a zombie.
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


def _unavailable(what: str, reason: str, log: Path) -> ServiceUnavailable:
    return ServiceUnavailable(f"Embedded {what} did not start: {reason}. See {log}")
