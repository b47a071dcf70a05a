"""Redis or Valkey: the client that the event relay shares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from anyio import fail_after
from coredis import Redis
from coredis.exceptions import RedisError

from vibetuner.app import VibetunerApp
from vibetuner.config import REDIS_MISSING, Settings, mask_url
from vibetuner.errors import NotConfigured, ServiceUnavailable, first_line
from vibetuner.resources.redis_pool import ReliablePool
from vibetuner.resources.redis_pubsub import ReliableRedis
from vibetuner.resources.slots import redis_client

__all__ = ["check", "innermost", "make_client", "open_redis", "open_resource", "ungrouped"]

CONNECT_SECONDS = 5
MALFORMED = ValueError(
    "the URL is malformed; percent-encode what is special in a password, and name the host"
)


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Redis[str]]:
    """A client for REDIS_URL that has answered once.

    Raises:
        NotConfigured: REDIS_URL is empty.
        ServiceUnavailable: no answer within 5 seconds, or a refusal.
    """
    await check(settings)
    with ungrouped():
        async with make_client(settings) as client:
            yield client


@asynccontextmanager
async def open_resource(settings: Settings, _project: VibetunerApp) -> AsyncIterator[Redis[str]]:
    """The process's shared client, in :data:`redis_client` while it is open."""
    async with open_redis(settings) as client:
        with redis_client.hold(client):
            yield client


async def check(settings: Settings) -> None:
    """One PING; raises ServiceUnavailable when there is no answer."""
    try:
        with fail_after(CONNECT_SECONDS):
            async with make_client(settings) as client:
                await client.ping()
    except (RedisError, OSError, ExceptionGroup) as error:
        raise ServiceUnavailable(_unreachable(settings, error)) from None


def make_client(settings: Settings) -> Redis[str]:
    """A client that is not connected yet; raises NotConfigured when REDIS_URL is empty."""
    if not settings.redis_url:
        raise NotConfigured(REDIS_MISSING)
    try:
        pool = ReliablePool.from_url(settings.redis_url, decode_responses=True)
    except ValueError:  # its text may show a piece of the password
        raise ServiceUnavailable(_unreachable(settings, MALFORMED)) from None
    if not pool.location:
        raise ServiceUnavailable(_unreachable(settings, MALFORMED))
    return ReliableRedis(connection_pool=pool, decode_responses=True)


@contextmanager
def ungrouped() -> Iterator[None]:
    """Let out as it is what is raised inside; a client's own task group hands it on in a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        error = group.exceptions[0]
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context


def innermost(error: Exception) -> Exception:
    """The first error inside a group of groups; any other error itself."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _unreachable(settings: Settings, error: Exception) -> str:
    reason = first_line(innermost(error))
    return (
        f"Redis at {mask_url(settings.redis_url or '')} can't be used: {reason}. "
        "Start it, correct REDIS_URL, or set REDIS_URL=embedded in development"
    )
