"""Shared services: the first user starts them, others join, and the last one stops them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from vibetuner.config import Settings
from vibetuner.embedded import join, running_services
from vibetuner.project import using_data_dir


def test_a_second_user_joins_the_servers_of_the_first(world):
    """A second user gets the servers of the first."""
    first, second = world.user(), world.user()

    assert first.urls == second.urls
    assert {user.pid for user in world.status().users} == {first.pid, second.pid}


def test_the_last_user_stops_the_servers(world, until, is_gone, is_closed):
    """The exit of the last user ends every process of the services and closes their ports."""
    first, second = world.user(), world.user()
    urls, _ = first.urls, second.urls
    pids = world.pids()
    assert len(pids) == 3

    first.leave()
    until(lambda: len(world.status().users) == 1)
    assert second.urls == urls
    assert not any(map(is_gone, pids))

    second.leave()
    until(world.stopped)
    until(lambda: all(map(is_gone, pids)))
    assert all(map(is_closed, urls.values()))


def test_a_killed_user_leaves_nothing_behind(world, until, is_gone, is_closed):
    """SIGKILL of the only user ends the servers, and the next user starts them again."""
    user = world.user()
    urls, pids = user.urls, world.pids()

    user.kill()

    until(world.stopped)
    until(lambda: all(map(is_gone, pids)))
    assert all(map(is_closed, urls.values()))
    assert list((world.folder / "leases").iterdir()) == []
    assert world.user().urls == urls


def test_users_that_start_in_the_same_moment_share_one_keeper(world):
    """Six users that start at once share one keeper with one server of each kind."""
    users = [world.user() for _ in range(6)]

    assert len({tuple(user.urls.items()) for user in users}) == 1
    assert len(world.status().users) == 6
    assert (world.folder / "keeper.log").read_text().count("redis starting") == 1
    assert not (world.folder / "keeper.log.1").exists()


def test_users_that_come_and_go_never_meet_servers_that_are_about_to_stop(world, until):
    """A user who joins while the keeper decides to stop gets a running server."""
    for _ in range(5):
        with join(world.root, ["redis"], command="short") as lease:
            assert world.service("redis").url == lease.urls["redis"]
    until(world.stopped)


def test_a_look_does_not_find_servers_that_are_about_to_stop(world, until):
    """While servers stop, a command that only looks, such as doctor, counts them as stopped.

    Valkey is frozen, so that its stop takes until the test ends.
    """
    settings = Settings(redis_url="embedded")
    user = world.user("redis")
    valkey = world.service("redis").pid if user.urls else None
    assert valkey
    os.kill(valkey, signal.SIGSTOP)
    try:
        with using_data_dir(world.root / ".vibetuner"):
            assert running_services(settings).redis_url == user.urls["redis"]
            user.leave()
            until(lambda: running_services(settings) == settings)
        assert world.status().keeper
        assert world.service("redis").state == "stopped"
    finally:
        with suppress(ProcessLookupError):
            os.kill(valkey, signal.SIGCONT)


def test_a_service_starts_when_somebody_wants_it(world):
    """A service starts when the first user asks for it, and not with another service."""
    world.user("redis").urls  # noqa: B018
    assert world.service("mongodb").state == "stopped"

    assert world.user("mongodb").urls.keys() == {"mongodb"}
    assert {service.state for service in world.status().services} == {"running"}


def test_a_process_may_use_them_twice(world, until):
    """A process may hold several leases; to leave one of them twice counts once."""
    outer = join(world.root, ["redis"], command="outer")
    with join(world.root, ["redis"], command="inner") as inner:
        assert inner.urls == outer.urls
    inner.leave()
    assert [user.command for user in world.status().users] == ["outer"]
    outer.leave()
    until(world.stopped)
