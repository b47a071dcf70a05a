"""Data and addresses survive restarts and sudden ends."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.processes import free_port
from vibetuner.embedded import down
from vibetuner.embedded.folder import try_lock, valkey_binary


async def test_data_survives_a_restart(world, until, write, read):
    """After all users have left, the next one finds the data at the same addresses."""
    first = world.user()
    urls = first.urls
    await write(urls, "kept")
    first.leave()
    until(world.stopped)

    again = world.user().urls

    assert again == urls
    assert await read(again) == {"redis": "kept", "mongodb": "kept"}


async def test_a_killed_keeper_takes_its_servers_with_it_and_the_data_stays(
    world, until, is_gone, write, read
):
    """After SIGKILL of the keeper, its servers end, and the next user finds their data."""
    first = world.user()
    await write(first.urls, "kept")
    pids = world.pids()

    world.kill(world.status().keeper)
    until(lambda: all(map(is_gone, pids)))

    second = world.user()
    assert await read(second.urls) == {"redis": "kept", "mongodb": "kept"}
    assert {user.pid for user in world.status().users} == {first.pid, second.pid}


async def test_servers_that_die_are_started_again(world, until, write, read):
    """A server that was killed is started again at the same address, with its data."""
    urls = world.user().urls
    await write(urls, "kept")
    killed = [service.pid for service in world.status().services]
    for pid in killed:
        world.kill(pid)

    until(lambda: not {one.pid for one in world.status().services} & {None, *killed})
    until(lambda: {one.state for one in world.status().services} == {"running"})

    assert await read(urls) == {"redis": "kept", "mongodb": "kept"}


async def test_an_orphaned_valkey_is_stopped_before_the_next_starts(world, until, is_gone, read):
    """An orphaned Valkey is stopped before the next one starts, which has its data.

    On macOS, a server outlives its killed keeper.
    """
    with orphaned_valkey(world, until) as (pid, port):
        say(port, b"SET key kept\r\n")
        assert world.service("redis").state == "orphaned"

        urls = world.user("redis").urls

        until(lambda: is_gone(pid))
        assert await read(urls) == {"redis": "kept"}


def test_down_stops_an_orphan_too(world, until, is_gone):
    """`down` stops an orphan that a killed keeper has left."""
    with orphaned_valkey(world, until) as (pid, _):
        down(world.root)

        until(lambda: is_gone(pid))
        assert world.stopped()


def test_a_taken_port_makes_way_for_another(world, until, write):
    """A service whose port is taken gets another one."""
    first = world.user()
    urls = first.urls
    first.leave()
    until(world.stopped)
    with socket.socket() as redis_port, socket.socket() as mongodb_port:
        for taken, name in ((redis_port, "redis"), (mongodb_port, "mongodb")):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", urlsplit(urls[name]).port))
            taken.listen()

        again = world.user().urls

        assert not set(again.values()) & set(urls.values())


def test_a_removed_folder_ends_the_servers_in_it(world, until, is_gone):
    """After `rm -rf .vibetuner`, the servers end, and the next start begins afresh."""
    world.user().urls  # noqa: B018
    pids = world.pids()

    shutil.rmtree(world.folder)
    world.user().urls  # noqa: B018

    until(lambda: all(map(is_gone, pids)))
    assert not set(world.pids()) & set(pids)
    assert len(world.pids()) == 3


@contextmanager
def orphaned_valkey(world, until):
    """Run a Valkey without a keeper, as a killed keeper leaves it on macOS."""
    world.user("redis").leave()
    until(world.stopped)
    state = world.folder / "state.json"
    record = json.loads(state.read_text())
    # The port that it had may be that of an outgoing connection by now.
    port = record["services"]["redis"]["port"] = free_port()
    state.write_text(json.dumps(record))
    lock = try_lock(world.folder / "redis.lock")
    options = {"port": str(port), "dir": str(world.folder / "redis"), "appendonly": "yes"}
    command = [
        str(valkey_binary()),
        *itertools.chain(*((f"--{name}", value) for name, value in options.items())),
    ]
    with subprocess.Popen(command, pass_fds=(lock,), stdout=subprocess.DEVNULL) as orphan:
        os.close(lock)
        try:
            until(lambda: say(port, b"PING\r\n") == b"+PONG")
            yield orphan.pid, port
        finally:
            orphan.kill()


def say(port: int, command: bytes) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(command)
            return connection.recv(100).strip()
    except OSError:
        return b""
