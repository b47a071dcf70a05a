"""The client for Redis or Valkey."""

from __future__ import annotations

import socket

import pytest

from vibetuner.config import Settings
from vibetuner.errors import NotConfigured, ServiceUnavailable
from vibetuner.redis import redis_client
from vibetuner.redis.client import check, open_redis, open_resource, ungrouped
from vibetuner.tasks.worker import TaskWorker


async def test_a_client_that_is_handed_out_has_answered(settings: Settings):
    """The client that open_redis yields can be used at once, and returns texts."""
    async with open_redis(settings) as client:
        await client.set(f"{settings.redis_key_prefix}name", "größe", ex=60)
        assert await client.get(f"{settings.redis_key_prefix}name") == "größe"


async def test_a_process_has_one_client_for_each_server(settings: Settings):
    """A process has one client for each server, which the queue shares."""
    async with open_resource(settings) as first, TaskWorker(settings) as worker:
        assert worker.redis is first
    async with TaskWorker(settings) as worker, open_resource(settings) as later:
        assert worker.redis is later is redis_client.get()
        elsewhere = settings.model_copy(update={"redis_url": f"{settings.redis_url}/1"})
        async with open_resource(elsewhere) as other:
            assert other is redis_client.get()
            assert other is not later
        assert redis_client.get() is later
    assert redis_client.peek() is None


async def test_without_a_url_the_cure_is_named(fresh: None):
    """Without REDIS_URL, the check fails with the line to add."""
    with pytest.raises(NotConfigured, match="Redis not configured. Add to .env:  REDIS_URL=redis:"):
        await check(Settings())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://ann:hunter2@127.0.0.1:1", "\\[Errno"),
        ("unix:///nowhere/redis.sock", "."),
        ("rediss://127.0.0.1:1?ssl_ca_certs=/nowhere.pem", "ssl_ca_certs=/nowhere.pem"),
    ],
)
async def test_a_server_that_cannot_be_used_is_one_line(url: str, words: str):
    """A server that can't be used is one line with address, reason and cure, but no password."""
    with pytest.raises(ServiceUnavailable, match=f"^Redis at .* can't be used: {words}") as caught:
        await check(Settings(redis_url=url))

    cure = "Correct the file, or its name in REDIS_URL" if "ssl_" in url else "in development"
    assert str(caught.value).endswith(cure)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
async def test_a_server_that_never_answers_is_given_up():
    """A server that accepts a connection and never answers is reported as unusable."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ServiceUnavailable, match="can't be used: "):
            await check(Settings(redis_url=url))


async def test_a_wrong_password_is_the_servers_refusal(settings: Settings):
    """A wrong password is reported with the server's reason, and is not shown."""
    url = (settings.redis_url or "").replace("redis://", "redis://ann:hunter2@")
    with pytest.raises(ServiceUnavailable, match="(?i)WRONGPASS|invalid|password") as caught:
        await check(Settings(redis_url=url))
    assert "hunter2" not in str(caught.value)


def test_an_error_leaves_the_group_that_a_client_wraps_around_it():
    """The only error of a group is raised with its cause, and other groups stay."""
    cause, mine = LookupError("cause"), ValueError("mine")
    mine.__cause__ = cause
    with pytest.raises(ValueError, match="mine") as caught, ungrouped():
        raise ExceptionGroup("tasks", [mine])
    assert caught.value.__cause__ is cause
    assert caught.value.__context__ is None

    with pytest.raises(ExceptionGroup), ungrouped():
        raise ExceptionGroup("tasks", [mine, cause])
