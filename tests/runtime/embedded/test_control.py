"""The control of the services by a person: status, up and down."""

from __future__ import annotations

import os

import pytest

from vibetuner.embedded import down, join, status, up
from vibetuner.errors import CommandError, ServiceUnavailable


def test_status_of_a_folder_where_nothing_ever_ran_changes_nothing(tmp_path):
    """The status of a folder in which nothing ever ran starts and creates nothing."""
    seen = status(tmp_path)

    assert not seen.running
    assert [service.state for service in seen.services] == ["stopped", "stopped"]
    assert list(tmp_path.iterdir()) == []


def test_status_shows_what_runs_and_for_whom(world):
    """The status shows each service's URL, start and size, and each user's pid and command."""
    with join(world.root, ["redis", "mongodb"], command="run dev") as lease:
        seen = world.status()

        assert seen.running
        assert {service.name: service.url for service in seen.services} == lease.urls
        assert all(service.since and service.data_bytes for service in seen.services)
        assert [(user.pid, user.command) for user in seen.users] == [(os.getpid(), "run dev")]


def test_up_keeps_them_running_without_users_until_down(world, until, is_gone):
    """`up` keeps the services running without users, until `down`."""
    seen = up(world.root)
    keeper, *servers = pids = world.pids()
    assert seen.pinned
    with join(world.root, ["redis"], command="passing"):
        pass
    with join(world.root, ["redis"], command="passing"):
        assert world.pids() == pids

    down(world.root)

    assert all(map(is_gone, servers))
    until(lambda: is_gone(keeper))
    assert world.stopped()
    assert not world.status().pinned


def test_a_pin_ends_with_its_keeper(world, until):
    """After the keeper was killed, the pin is gone, and servers end with their users again."""
    up(world.root, ["redis"])
    world.kill(world.status().keeper)
    until(world.stopped)

    world.user("redis").leave()

    assert until(world.stopped)


def test_down_refuses_while_others_use_them(world):
    """`down` is refused while others use the services, and names them and --force."""
    user = world.user("redis", command="run prod worker")
    url = user.urls["redis"]

    with pytest.raises(CommandError, match=rf"run prod worker \(pid {user.pid}\).*down --force$"):
        down(world.root)

    assert world.service("redis").url == url


def test_down_with_force_stops_them_under_their_users(world, until, is_gone):
    """`down --force` stops the servers of its users, and the next user starts them again."""
    user = world.user("redis")
    urls = user.urls
    keeper, *servers = world.pids()

    down(world.root, force=True)

    assert all(map(is_gone, servers))
    until(lambda: is_gone(keeper))
    assert world.user("redis").urls == urls


def test_down_where_nothing_runs_is_fine(tmp_path):
    """`down` succeeds where nothing runs."""
    down(tmp_path)
    down(tmp_path, force=True)
    assert status(tmp_path).keeper is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    """A folder that can't be written is named in one line."""
    (tmp_path / ".vibetuner").write_text("in the way")

    with pytest.raises(ServiceUnavailable, match=r"a directory\. .*: move it away$") as refusal:
        join(tmp_path, ["redis"], command="test")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("service", "file"),
    [("redis", "appendonlydir/appendonly.aof.manifest"), ("mongodb", "secantusd.toml")],
)
def test_a_server_that_cannot_start_is_reported_with_its_reason(world, until, service, file):
    """A server that can't start is one line, with its reason and the path of its log."""
    damaged = world.folder / service / file
    damaged.parent.mkdir(parents=True)
    damaged.write_text("nonsense" * 100)

    with pytest.raises(ServiceUnavailable, match=rf"did not start: .*{service}\.log$") as refusal:
        join(world.root, [service], command="test")

    assert "\n" not in str(refusal.value)
    until(world.stopped)
