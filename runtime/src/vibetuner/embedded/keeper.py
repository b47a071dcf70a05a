"""The keeper: the process that runs the servers as long as somebody uses them.

It checks the leases four times a second. It decides to stop, and stops, while it holds the start
lock, so that no process joins servers that are about to end.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from vibetuner.embedded.folder import (
    Folder,
    Record,
    Service,
    live_users,
    read_record,
    remove_dead,
    try_lock,
    wait_for_lock,
    write_record,
)
from vibetuner.embedded.servers import Mongo, Server, Valkey, stop_all

IDLE_POLL = 0.25
START_POLL = 0.02
LOCK_SECONDS = 10.0


def main() -> None:
    """Run ``python -m vibetuner.embedded.keeper <folder> <descriptor of the keeper's lock>``."""
    folder, lock = Folder(Path(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(lock, False)
    os.umask(0o077)  # also for the servers: only the user may read their files
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    if os.fork() == 0:
        Keeper(folder, lock).run()
    else:
        os._exit(0)


class Keeper:
    """The servers that the live leases ask for."""

    def __init__(self, folder: Folder, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        ports = {name: one.port for name, one in read_record(folder).services.items()}
        servers = (Valkey(folder, ports["redis"]), Mongo(folder, ports["mongodb"]))
        self._servers: dict[Service, Server] = {server.service: server for server in servers}
        self._wanted: set[Service] = set()
        self._published = Record()
        self._told_to_stop = False

    def run(self) -> None:
        """Run until no user is left."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        start_lock: int | None = None
        try:
            for server in self._servers.values():
                server.reclaim()
            start_lock = self._serve()
            # Commands that only look, such as doctor, must not use servers that are about to end.
            self._publish_stop()
        finally:
            stop_all(self._servers.values())
            self._wanted.clear()
            self._publish(keeper=None)
            # In this order: a process that gets the start lock must find the keeper's lock free.
            os.close(self._lock)
            if start_lock is not None:
                os.close(start_lock)

    def _serve(self) -> int | None:
        """Watch the servers; when it is time to stop, return with the start lock held."""
        while True:
            if self._is_evicted():
                return None
            if self._told_to_stop or self._folder.stop_request.exists():
                self._folder.stop_request.unlink(missing_ok=True)
                return wait_for_lock(
                    self._folder.start_lock, patience=LOCK_SECONDS, give_up=self._is_evicted
                )
            if not self._users_want_services():
                start_lock = self._start_lock_if_unused()
                if start_lock is not None:
                    return start_lock
            for service in self._wanted:
                self._servers[service].look()
            self._publish(keeper=os.getpid())
            states = {self._servers[service].record.state for service in self._wanted}
            time.sleep(START_POLL if "starting" in states else IDLE_POLL)

    def _users_want_services(self) -> bool:
        users = live_users(self._folder)
        # A service that was started keeps running: the next user may be about to join it.
        self._wanted.update(service for user in users for service in user.services)
        return bool(users) or self._folder.pin.exists()

    def _start_lock_if_unused(self) -> int | None:
        start_lock = try_lock(self._folder.start_lock)
        if start_lock is None:
            return None
        if self._users_want_services():  # pragma: no cover - one has joined since the last look
            os.close(start_lock)
            return None
        remove_dead(self._folder)
        return start_lock

    def _is_evicted(self) -> bool:
        """Return whether the folder was removed; then nothing in it belongs to this keeper."""
        try:
            return not os.path.samestat(self._folder.keeper_lock.stat(), os.fstat(self._lock))
        except OSError:
            return True

    def _publish(self, *, keeper: int | None) -> None:
        record = Record(keeper, {name: server.record for name, server in self._servers.items()})
        if record == self._published or self._is_evicted():
            return
        # A keeper that can't write this ends; a process that waits for it fails to write, too, and
        # reports it.
        write_record(self._folder, record)
        self._published = record

    def _publish_stop(self) -> None:
        for server in self._servers.values():
            server.record = server.record.stopped()
        self._publish(keeper=os.getpid())

    def _on_signal(self, *_: object) -> None:
        self._told_to_stop = True


if __name__ == "__main__":
    main()
