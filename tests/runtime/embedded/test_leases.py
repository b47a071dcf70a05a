"""Locks, leases and the start of the keeper, in this process."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vibetuner.embedded import Lease, User, down, join
from vibetuner.embedded.folder import (
    Folder,
    Record,
    is_held,
    last_line,
    live_users,
    remove_dead,
    sign_in,
    try_lock,
    wait_for_lock,
    write_record,
)
from vibetuner.errors import ServiceUnavailable

USER = User(pid=1, command="test", services=("redis",), since=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a folder in which no keeper has run."""
    folder = Folder.of(tmp_path)
    folder.leases.mkdir(parents=True)
    return folder


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock for the length of the block."""
    descriptor = try_lock(path)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_lock_is_waited_for_as_long_as_one_says(tmp_path: Path):
    """A wait for a lock ends without it after its time, and the owner keeps the lock."""
    with held(tmp_path / "lock"):
        assert wait_for_lock(tmp_path / "lock", patience=0, give_up=lambda: False) is None
        assert is_held(tmp_path / "lock")


def test_only_the_leases_of_ended_processes_are_removed(folder: Folder):
    """Only a lease whose lock nobody holds is removed."""
    alive, dead = folder.leases / "1-a.lease", folder.leases / "2-b.lease"
    dead.touch()
    with held(alive):
        remove_dead(folder)

        assert list(folder.leases.iterdir()) == [alive]


def test_a_lease_that_can_not_be_written_is_not_held(folder: Folder):
    """A lease that can't be written, here because of a folder in its place, is not held."""
    (folder.leases / "1-a.lease").mkdir()

    with pytest.raises(IsADirectoryError):
        sign_in(folder.leases / "1-a.lease", USER)

    assert not is_held(folder.leases / "1-a.new")


@pytest.mark.parametrize(
    "text",
    [
        b"", b'{"pid": 7, "comm', b"[]", b"{}", b"\xff", b'{"pid": 7}',
        b'{"pid": 7, "command": "run dev", "services": [], "since": "now"}',
    ],
)  # fmt: skip
def test_a_lease_that_can_not_be_read_still_counts(folder: Folder, text: bytes):
    """A process whose lease is cut off, or of another version, still uses the services."""
    lease = folder.leases / "7-a.lease"
    with held(lease):
        lease.write_bytes(text)

        assert live_users(folder) == [User(7, "the holder of 7-a.lease", (), 0.0)]


def test_a_lease_is_whole_or_an_error(folder: Folder):
    """A lease for which there is no room, here for its last bytes, is an error and not cut off."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            sign_in(folder.leases / "1-a.lease", USER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not (folder.leases / "1-a.lease").exists()


def test_a_user_who_leaves_while_they_wait_to_start_gets_nothing(folder: Folder, tmp_path: Path):
    """A user who leaves while they wait for a start has no URLs and no lease, as at Ctrl-C."""
    lease = Lease(tmp_path, ["redis"], command="test")
    entering = threading.Thread(target=lease.enter)
    with held(folder.start_lock):
        entering.start()
        lease.leave()
        entering.join(30)

    assert not entering.is_alive()
    assert lease.urls == {}
    assert list(folder.leases.iterdir()) == []


def test_a_keeper_that_can_not_start_is_reported_with_its_log(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A keeper that can't start is reported with its log.

    Here, Python doesn't find its own library.
    """
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "nowhere"))

    with pytest.raises(ServiceUnavailable, match=r"their keeper can't start.*keeper\.log$"):
        join(tmp_path, ["redis"], command="test")

    assert not is_held(folder.keeper_lock)


def test_a_keeper_that_dies_each_time_is_reported_with_its_log(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A keeper that dies each time, here as soon as it is on its own, is reported with its log."""
    dying = "import os\nos.register_at_fork(after_in_child=lambda: os._exit(1))\n"
    (tmp_path / "sitecustomize.py").write_text(dying)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(ServiceUnavailable, match=r"did not start: .*keeper\.log$"):
        join(tmp_path, ["redis"], command="test")

    assert list(folder.leases.iterdir()) == []


def test_down_does_not_wait_for_the_next_keeper(folder: Folder, tmp_path: Path):
    """`down` returns if somebody else has started a next keeper, which goes on."""
    stopping = threading.Thread(target=down, args=[tmp_path], kwargs={"force": True})
    with held(folder.keeper_lock):
        stopping.start()
        for keeper in itertools.count(1):
            write_record(folder, Record(keeper))
            if not stopping.is_alive():
                break
            time.sleep(0.001)

    assert folder.stop_request.exists()


def test_a_keeper_stops_in_order_at_a_signal(world, until, is_gone):
    """A keeper stops its servers and then itself at SIGTERM, although they are used."""
    world.user("redis").urls  # noqa: B018
    keeper, *servers = world.pids()

    os.kill(keeper, signal.SIGTERM)

    until(lambda: is_gone(keeper))
    assert all(map(is_gone, servers))
    assert world.stopped()


def test_a_log_that_is_not_there_has_no_last_line(tmp_path: Path):
    """The last line of a missing or empty log is an empty text."""
    (tmp_path / "empty").touch()
    (tmp_path / "log").write_text("first\nlast\n\n")

    assert [last_line(tmp_path / name) for name in ("none", "empty", "log")] == ["", "", "last"]
