"""The Redis or Valkey client that a process shares for commands."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast

from anyio import CancelScope
from coredis import ConnectionPool, Redis
from coredis.commands.request import CommandRequest
from coredis.connection import TCPConnection, TCPLocation, UnixDomainSocketLocation
from coredis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from coredis.exceptions import ConnectionError as Disconnected
from coredis.patterns.pipeline import Pipeline
from coredis.retry import ConstantRetryPolicy

from vibetuner.app import VibetunerApp
from vibetuner.config import Settings, mask_url, url_for_people
from vibetuner.errors import (
    NotConfigured,
    RedisFull,
    ServiceUnavailable,
    explain_unusable,
    first_line,
)
from vibetuner.redis import ANSWER_SECONDS, REDIS_MISSING, answer_seconds, redis_client
from vibetuner.redis.connection import (
    AWAY,
    CONNECT_SECONDS,
    MOVING_PAUSE,
    Connection,
    connect_guide,
    misplaced,
)
from vibetuner.redis.keys import Keys
from vibetuner.redis.primary import Primary, primary_of
from vibetuner.redis.rights import require_rights
from vibetuner.redis.url import Address, parse_url

__all__ = [
    "ReliablePool",
    "ReliableRedis",
    "answering",
    "check",
    "innermost",
    "make_client",
    "open_redis",
    "open_resource",
    "unavailable",
    "ungrouped",
]

T = TypeVar("T")

# A command that got no answer in time may have been executed, so only a lost connection is retried.
RETRIES = ConstantRetryPolicy((Disconnected,), retries=1, delay=0.01)

OUTAGES = (RedisError,)

#: The server's error when it has no memory left for a command.
FULL = re.compile(r"\bOOM\b")
MEMORY_SECONDS = 2.0

# The connection that is being opened; True before it is made.
_connecting: ContextVar[TCPConnection | bool] = ContextVar("connecting", default=False)


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Redis[str]]:
    """Open a client for REDIS_URL, after the server has answered once.

    Raises:
        NotConfigured: REDIS_URL is empty.
        SettingsError: REDIS_URL is not valid.
        ServiceUnavailable: no answer within 5 seconds, or a refusal.
    """
    await check(settings)
    with ungrouped():
        async with make_client(settings) as client:
            yield client


@asynccontextmanager
async def open_resource(
    settings: Settings, _project: VibetunerApp | None = None
) -> AsyncIterator[Redis[str]]:
    """Open the process's shared client; :data:`redis_client` holds it meanwhile.

    If one is open for this server, it is used, and must outlast the block.

    Raises:
        NotConfigured, SettingsError, ServiceUnavailable: like :func:`open_redis`.
    """
    if shared := _opened(_address(settings)):
        yield shared
        return
    async with open_redis(settings) as client:
        with redis_client.hold(client):
            yield client


def _opened(address: Address) -> Redis[str] | None:
    """Return the open client of a server, if there is one."""
    client = redis_client.peek()
    if client is None or getattr(client.connection_pool, "address", None) != address:
        return None
    return client


async def check(settings: Settings) -> None:
    """Check that the server answers and that its user has the rights a project needs.

    The rights are checked before a client is opened. A client that is open is only pinged.

    Raises:
        NotConfigured: REDIS_URL is empty.
        SettingsError: REDIS_URL is not valid.
        RightsMissing: the user lacks rights; the message has the line that grants them.
        ServiceUnavailable: no answer within 5 seconds, or a refusal.
    """
    address = _address(settings)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            if opened := _opened(address):
                await opened.ping()
                return
            async with Connection(address) as connection:
                await require_rights(connection, Keys(settings.redis_key_prefix))
    except (RedisError, OSError) as error:
        raise _unreachable(settings, error) from None


def _address(settings: Settings) -> Address:
    if not settings.redis_url:
        raise NotConfigured(REDIS_MISSING)
    return parse_url(settings.redis_url, settings.redis_key_prefix)


def make_client(settings: Settings) -> Redis[str]:
    """Return a client that is not connected yet.

    Raises:
        SettingsError: REDIS_URL is not valid, or can't be meant.
        ServiceUnavailable: REDIS_URL names a certificate that can't be used.
    """
    try:
        pool = ReliablePool(_address(settings))
    except OSError as error:
        raise _unreachable(settings, error) from None
    client = ReliableRedis(connection_pool=pool, decode_responses=True, retry_policy=RETRIES)
    client.seconds = answer_seconds()
    return client


class ReliablePool(ConnectionPool[TCPConnection]):
    """A connection pool for the primary that loses none of its slots.

    In coredis 6.9 a connection that dies while it is in use, or that is cancelled while it
    connects, never returns its slot to the pool. After about sixty of these the process waits for
    ever.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._primary: Primary | None = None
        self._left: set[TCPConnection] = set()
        self._opening: set[TCPConnection] = set()
        options: dict[str, Any] = {
            "username": address.username,
            "password": address.password,
            "db": address.db,
            "ssl_context": address.tls.context() if address.tls else None,
            "decode_responses": True,
            "connect_timeout": CONNECT_SECONDS,
            "stream_timeout": answer_seconds(),
            # The limit for both steps together: waiting for a slot, and connecting.
            "timeout": 2 * answer_seconds(),
        }
        super().__init__(
            location=UnixDomainSocketLocation(address.path)
            if address.path
            else TCPLocation(address.host, address.port),
            **options,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        if self._primary is not None and not self._counter:
            with CancelScope(shield=True):
                await self._primary.unfollow(self)

    async def _initialize(self) -> None:
        self._primary = primary_of(self.address, connect_guide, self, self._moved)
        await super()._initialize()

    def _moved(self, primary: Address) -> None:
        # A server that only gave away a slot still answers, so answers have until the next check.
        overdue, self._left = self._left, self.leave(TCPLocation(primary.host, primary.port))
        for connection in overdue & self._left:
            connection.invalidate("it was no longer the primary's")

    def leave(self, primary: TCPLocation) -> set[TCPConnection]:
        """Close connections to other servers; return those on which an answer is awaited.

        One that is being opened is closed: a server that is frozen would hold it up.
        """
        known = self._online_connections | self._opening
        others = {one for one in known if one.location != primary}
        awaited = {one for one in others - self._opening if one._requests}  # noqa: SLF001
        for connection in others - awaited:
            reason = f"the primary is now at {primary}"
            connection._last_error = Disconnected(reason)  # noqa: SLF001 - opening it fails so
            connection.invalidate(reason)
        return awaited

    async def get_connection(self, **options: Any) -> TCPConnection:
        """Return a connection from the pool, or open one if a slot is free."""
        token = _connecting.set(False)
        try:
            return await super().get_connection(**options)
        except RedisError:
            raise  # coredis itself frees the slot
        except BaseException as error:
            if _connecting.get():
                self._available_connections.append_nowait(None)
            if (self._primary or self.address.tls) and isinstance(error, OSError):
                raise Disconnected(first_line(error)) from None
            raise
        finally:
            self._opening.discard(_connecting.get())
            _connecting.reset(token)

    def release(self, connection: TCPConnection) -> None:
        """Return a connection to the pool, or free its slot if it is no longer usable."""
        super().release(connection)
        if not connection.usable:
            self._available_connections.append_nowait(None)

    async def _construct_connection(self) -> TCPConnection:
        _connecting.set(True)
        if self.address.tls:  # certificates are renewed under the same name
            self.connection_kwargs["ssl_context"] = self.address.tls.context()
        if self._primary is None:
            return await super()._construct_connection()
        server = await self._primary.find()
        self.location = TCPLocation(server.host, server.port)
        connection = await super()._construct_connection()
        connection.register_connect_callback(partial(_check_role, server))
        _connecting.set(connection)
        self._opening.add(connection)
        return connection


async def _check_role(server: Address, connection: TCPConnection) -> None:
    reply = await connection.create_request(b"HELLO", decode=False)
    try:
        server.check(reply)
    except OSError as error:
        raise Disconnected(str(error)) from None


class ReliableRedis(Redis[str]):
    """coredis's client, with a deadline for commands.

    The deadline is the :func:`vibetuner.redis.answer_seconds` of the context that made the client.
    It covers the whole command: waiting for a slot of the pool, connecting and the answer.
    """

    seconds: float = ANSWER_SECONDS

    async def execute_command(self, command: CommandRequest[T]) -> T:
        """Send one command; raise ServiceUnavailable when its deadline passes."""
        if command.blocking:
            return await super().execute_command(command)
        try:
            async with asyncio.timeout(self.seconds):
                return await super().execute_command(command)
        except TimeoutError:
            raise ServiceUnavailable(
                f"Redis has not answered within {self.seconds:g} s. Check that it runs and is not "
                "busy:  vibetuner doctor"
            ) from None

    async def _execute_command(self, command: CommandRequest[T]) -> T:
        while True:
            try:
                return await super()._execute_command(command)
            except (AskError, TryAgainError) as error:
                await self.wait_for_slot(error)  # repeats until the command's deadline
            except ResponseError as error:
                is_away = isinstance(error, ReadOnlyError | ClusterDownError)
                if not (is_away or str(error).startswith(AWAY)):
                    raise
                self.connection_pool.disconnect()  # another server may be the primary now
                raise Disconnected(f"Redis is no primary, or not ready: {error}") from None

    async def wait_for_slot(self, error: AskError | TryAgainError) -> None:
        """Pause while a slot is being moved, and reconnect once it has been.

        Raises:
            WrongNodeError: waiting can't cure the error.
        """
        pool = cast("ReliablePool", self.connection_pool)
        refusal = f"MOVED {error.slot_id}" if isinstance(error, AskError) else ""
        if wrong := misplaced(pool.address, refusal):
            raise wrong from None
        if isinstance(error, MovedError):
            pool.leave(TCPLocation(error.host, error.port))
        await asyncio.sleep(MOVING_PAUSE)

    def pipeline(
        self, transaction: bool = True, *, raise_on_error: bool = True, timeout: float | None = None
    ) -> Pipeline[str]:
        """Return a pipeline, as coredis does, that waits while its slot is being moved."""
        return _ReliablePipeline(self, transaction, raise_on_error, timeout)


class _ReliablePipeline(Pipeline[str]):
    """A pipeline that is sent again while its slot is being moved, if that repeats no write."""

    async def _execute(self) -> None:
        client, commands = cast("ReliableRedis", self.client), list(self.command_stack)
        end = time.monotonic() + client.seconds
        only_reads = all(one.readonly for one in commands)
        while True:
            try:
                return await super()._execute()
            except (AskError, TryAgainError) as error:
                # A transaction is refused as a whole.
                if not (self._transaction or only_reads) or time.monotonic() > end:
                    raise
                await client.wait_for_slot(error)
            except Disconnected:
                if not only_reads or time.monotonic() > end:
                    raise
                await asyncio.sleep(MOVING_PAUSE)
            if self._connection is not None:
                client.connection_pool.release(self._connection)
                self._connection = None
            self.command_stack = list(commands)


@asynccontextmanager
async def answering(
    settings: Settings, seconds: float | None = ANSWER_SECONDS
) -> AsyncIterator[None]:
    """Turn every Redis error in the block into an error of ours, with a one-line message.

    ``seconds=None`` sets no further time limit.

    Raises:
        RedisFull: Redis has no memory left.
        ServiceUnavailable: Redis gives no answer in time, or refuses.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise _unusable(settings, f"no answer within {seconds or ANSWER_SECONDS:g} s") from None
    except (RedisError, OSError, ExceptionGroup) as error:
        inner = innermost(error)
        if isinstance(error, ExceptionGroup) and not isinstance(inner, RedisError | OSError):
            raise
        raise await unavailable(settings, inner) from None


async def unavailable(
    settings: Settings, error: Exception, connection: Connection | None = None
) -> ServiceUnavailable:
    """Return our error for an error of the client.

    Args:
        settings: the process's settings.
        error: the error that the client raised.
        connection: used to ask for the server's memory; without it, a new one is opened.
    """
    if not FULL.search(str(error)):
        return _unusable(settings, first_line(error))
    level = await _fill_level(settings, connection)
    return RedisFull(
        f"Redis at {mask_url(settings.redis_url or '')} has no memory left{level}, so it takes no "
        "new tasks and events. Raise maxmemory, or see what fills it:  vibetuner tasks stats"
    )


def _unusable(settings: Settings, reason: str) -> ServiceUnavailable:
    url, environment = url_for_people(settings, "redis_url"), settings.environment
    return ServiceUnavailable(
        explain_unusable("Redis", "REDIS_URL", url, reason, environment=environment)
    )


async def _fill_level(settings: Settings, connection: Connection | None) -> str:
    """Return the server's memory use in words; empty if the server doesn't report it."""
    with suppress(RedisError, OSError):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(MEMORY_SECONDS))
            if connection is None:
                address = parse_url(settings.redis_url or "", settings.redis_key_prefix)
                connection = await stack.enter_async_context(Connection(address))
            text = (await connection.call("INFO", "memory")).decode()
        used, most = (
            int(size[1]) if (size := re.search(rf"(?m)^{name}:(\d+)", text)) else 0
            for name in ("used_memory", "maxmemory")
        )
        return f" ({100 * used // most} % of {most / 1e6:,.1f} MB are used)" if most else ""
    return ""


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the only error of an exception group itself; a client's task group wraps it."""
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
    """Return the first error inside nested groups; any other error unchanged."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _unreachable(settings: Settings, error: Exception) -> ServiceUnavailable:
    reason = first_line(innermost(error))
    return _unusable(settings, reason.partition(" can't be reached: ")[2] or reason)
