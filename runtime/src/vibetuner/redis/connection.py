"""A connection to Redis that sends the commands of one event loop turn together."""

from __future__ import annotations

import asyncio
import math
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeAlias, cast

import hiredis
from coredis.exceptions import ConnectionError as Disconnected
from coredis.exceptions import RedisError, ResponseError

from vibetuner.errors import first_line
from vibetuner.redis import answer_seconds
from vibetuner.redis.primary import LONGEST_ASK_SECONDS, Primary, primary_of
from vibetuner.redis.url import Address

CONNECT_SECONDS = 5
#: Seconds to wait before asking again for a Cluster slot that is being moved.
MOVING_PAUSE = 0.05
#: The callers of one shared command: the server runs it while this process packs the next one.
MOST_SHARED = 16
#: Values of more bytes are sent alone.
LARGEST_SHARED = 65_536
LOOK_SECONDS = 0.5
LEAVE_SECONDS = 1.0
PING = hiredis.pack_command(("PING",))
#: Commands that may block on the server.
BLOCKING = frozenset(
    {
        "XREADGROUP", "XREAD", "BLPOP", "BRPOP", "BLMOVE", "BLMPOP", "BZPOPMIN", "WAIT", "WAITAOF",
    }
)  # fmt: skip

#: What RESP3 sends without a command that asks for it, and in answer to SUBSCRIBE and the like.
PUSH = hiredis.PushNotification
#: The server's replies when a subscription begins or ends. It also ends sharded ones by itself.
CONFIRMATIONS = frozenset({b"subscribe", b"unsubscribe", b"ssubscribe"})

#: Refusals of a server that is not, or not yet, a primary. It did not run the command, so another
#: may.
AWAY = ("READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED", "CLUSTERDOWN")
#: Refusals of a Cluster node whose slot is on another node, or is being moved.
MOVING = ("MOVED", "ASK", "TRYAGAIN")

Asker: TypeAlias = "asyncio.Future[Any] | _Shared"
Push = Callable[[list[Any]], None]
Command = Sequence[str | bytes | float]


class Moving(Disconnected):
    """The queue's slot is on another Cluster node, or is moving; the command did not run."""


class WrongNodeError(RedisError):
    """A command's key is on a node that REDIS_URL and REDIS_KEY_PREFIX don't lead to."""


class Connection:
    """Sends commands and returns their replies, as bytes, in order.

    It connects on the first call, and again after a loss. Commands in flight at a loss fail and are
    never sent again, because nobody can tell whether the server ran them. A server that stays
    silent while a reply is awaited, or that is no longer a primary, is treated as lost.

    Args:
        address: the server, or the Sentinels or Cluster nodes that know it.
        timeout: seconds that the server may be silent, beyond the time that a command blocks for;
            by default :func:`vibetuner.redis.answer_seconds` of this context.
        on_push: receives the messages of subscriptions; the connection speaks RESP3 then, in which
            it can also send other commands. A server that has sent nothing for half of the timeout
            is asked for a reply, as a connection can break unnoticed.
        on_loss: called when an open connection is lost.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float | None = None,
        on_push: Push | None = None,
        on_loss: Callable[[], None] | None = None,
    ) -> None:
        self.address = address
        self._timeout = answer_seconds() if timeout is None else timeout
        self._on_push = on_push
        self._on_loss = on_loss
        self._loop = asyncio.get_running_loop()
        self._line: _Line | None = None
        self._former: _Line | None = None
        self._primary: Primary | None = None
        self._unsent: list[bytes] = []
        self._asked: list[Asker] = []
        self._shared: _Shared | None = None
        self._patience = self._timeout
        self._connecting: asyncio.Task[None] | None = None
        self._greeted: Address | None = None
        self._limit: asyncio.Timeout | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def call(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        """Send a command; the future holds its reply.

        On an idle connection it is sent at once, else with the others of this event loop turn.

        The future raises coredis's ConnectionError when the server can't be reached or is lost
        before it has answered, and its ResponseError when the server refuses the command.
        """
        future = self._loop.create_future()
        if command[0] in BLOCKING:
            self._patience = max(self._patience, self._timeout + _blocked(command))
        self._send(command, future, at_once=True)
        return future

    def share(self, head: Command, values: Command) -> asyncio.Future[list[Any]]:
        """Send a command whose reply is a list; the future holds a list with these values' item.

        On an idle connection it is sent at once. Otherwise it becomes one command with the calls
        directly before it in this event loop turn, if they have the same head. The item may be an
        exception; the future raises the same errors as that of :meth:`call`.
        """
        future, line = self._loop.create_future(), self._line
        if line is not None and line.is_idle and not (self._asked or self._closed):
            packed = hiredis.pack_command((*head, *values))  # type: ignore[arg-type]
            line.write(packed, (future,), self._timeout)
            return future
        if self._closed or len(body := _arguments(values)) > LARGEST_SHARED:
            return self.call(*head, *values)
        shared = self._shared
        if shared is None or shared.head != head:
            shared = _Shared(head, len(self._unsent), len(head))
            self._add(b"", shared)
            self._shared = shared
        shared.askers.append(future)
        shared.length += len(values)
        self._unsent.append(body)
        if len(shared.askers) == MOST_SHARED:
            self._close_shared()
            self._flush()
        return future

    def tell(self, verb: str, channel: str) -> asyncio.Future[None]:
        """Send SUBSCRIBE or a similar command; the future ends when the server confirms it.

        It is sent with the other commands of this event loop turn. The future raises the same
        errors as that of :meth:`call`. It need not be awaited.
        """
        future = self._loop.create_future()
        future.add_done_callback(look_at)
        self._send((verb, channel), future, at_once=False)
        return future

    async def connect(self) -> None:
        """Connect if necessary; raises the same errors as the future of :meth:`call`."""
        if self._closed:
            raise Disconnected("The connection is closed")
        if self._line is None:
            await asyncio.shield(self._start_connecting())

    async def replicas(self) -> set[tuple[str, int]]:
        """Return the replicas that the Sentinels or the Cluster report; none without either.

        Raises ConnectionError if they call another server the primary.
        """
        line = self._line
        if self._primary is None or line is None:
            return set()
        try:
            return await self._primary.replicas(line.server)
        except OSError as error:
            raise Disconnected(f"Redis at {line.server}: {first_line(error)}") from None

    async def close(self) -> None:
        """Fail the commands without a reply, and disconnect."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for line in (self._line, self._former):
            if line is not None:
                line.close()
                await line.gone.wait()
        if self._primary is not None:
            await self._primary.unfollow(self)
        self._fail(Disconnected("The connection is closed"))

    def _send(self, command: Command, future: asyncio.Future[Any], *, at_once: bool) -> None:
        """Send a command with the others of this turn; ``at_once`` on an idle connection."""
        if self._closed:
            raise Disconnected("The connection is closed")
        packed = hiredis.pack_command(command)  # type: ignore[arg-type]
        if at_once and self._line is not None and not self._asked and self._line.is_idle:
            self._line.write(packed, (future,), self._patience)
            self._patience = self._timeout
            return
        self._add(packed, future)

    def _close_shared(self) -> None:
        """Let the next call begin another command, so that the server keeps the order of calls."""
        if (shared := self._shared) is not None:
            head = b"*%d\r\n%b" % (shared.length, _arguments(shared.head))
            self._unsent[shared.place], self._shared = head, None

    def _add(self, packed: bytes, asker: Asker) -> None:
        self._close_shared()
        self._unsent.append(packed)
        self._asked.append(asker)
        if len(self._asked) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if not self._asked or self._closed:
            return
        if self._line is None:
            self._start_connecting()
            return
        self._close_shared()
        packed, asked = b"".join(self._unsent), self._asked
        self._unsent, self._asked = [], []
        self._line.write(packed, asked, self._patience)
        self._patience = self._timeout

    def _start_connecting(self) -> asyncio.Task[None]:
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        return self._connecting

    async def _connect(self) -> None:
        address = self.address
        if address.guides and self._primary is None:
            self._primary = primary_of(address, connect_guide, self, self._moved)
        while self._line is None:
            self._greeted = address
            try:
                if self._primary is not None:
                    address = await self._primary.find()
                await self._greet(address)
            except (OSError, TimeoutError) as error:
                if self._greeted is None:
                    continue  # another server has become the primary meanwhile
                reason = "no answer" if isinstance(error, TimeoutError) else first_line(error)
                raise Disconnected(f"Redis at {address} can't be reached: {reason}") from None

    async def _greet(self, address: Address) -> None:
        """Connect to a server; :meth:`_moved` interrupts it."""
        line, self._greeted = None, address
        try:
            async with asyncio.timeout(CONNECT_SECONDS) as self._limit:
                line = await self._open(address)
                for greeting in address.greeting(resp3=self._on_push is not None):
                    asked = self._loop.create_future()
                    packed = hiredis.pack_command(greeting)  # type: ignore[arg-type]
                    line.write(packed, [asked], self._timeout)
                    address.check(await asked)
            line.on_loss, self._line = self._lost, line
        finally:
            self._limit = None
            if line is not None and self._line is not line:
                line.close()

    async def _open(self, address: Address) -> _Line:
        loop = self._loop
        new = lambda: _Line(self._on_push, address, self._timeout)  # noqa: E731
        if address.path:
            _, line = await loop.create_unix_connection(new, address.path)
        else:
            tls = address.tls.context() if address.tls else None
            name = address.host if tls else None
            _, line = await loop.create_connection(
                new, address.host, address.port, ssl=tls, server_hostname=name
            )
        return line

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if task.cancelled():
            self._fail(Disconnected("The connection is closed"))
        elif error := task.exception():
            self._fail(error)
        else:
            self._flush()

    def _fail(self, error: BaseException) -> None:
        asked, self._asked, self._unsent, self._shared = self._asked, [], [], None
        for future in asked:
            _settle(future, error)

    def _moved(self, primary: Address) -> None:
        limit, is_other = self._limit, self._greeted != primary
        if limit is not None and is_other and not limit.expired():
            self._greeted = None
            limit.reschedule(self._loop.time())
        if self._line is None or self._line.server == primary:
            return
        reason = f"the primary is now {primary}"
        # A node whose slot has moved still answers; a primary that was replaced may be frozen.
        self._line.leave(reason) if primary.cluster else self._line.give_up(reason)

    def _lost(self) -> None:
        self._former, self._line = self._line, None
        if self._on_loss is not None and not self._closed:
            self._on_loss()


@dataclass(slots=True, eq=False)
class _Shared:
    """A command that several callers share; each gets its own item of the reply."""

    head: Command
    place: int
    length: int
    askers: list[asyncio.Future[list[Any]]] = field(default_factory=list)

    def done(self) -> bool:
        return False

    def set_result(self, reply: list[Any]) -> None:
        for asker, item in zip(self.askers, reply, strict=True):
            _settle(asker, [item])

    def set_exception(self, error: BaseException) -> None:
        for asker in self.askers:
            _settle(asker, error)


class _Line(asyncio.Protocol):
    """The protocol of one connection: parses bytes into replies and resolves the futures."""

    def __init__(self, on_push: Push | None, server: Address, timeout: float) -> None:
        self.server = server
        self._timeout = timeout
        self.on_loss: Callable[[], None] | None = None
        self.gone = asyncio.Event()
        self._on_push = on_push
        self._waiting: deque[Asker] = deque()
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.TimerHandle | None = None
        self._heard = self._patience = 0.0
        self._leaving = False
        self._reason = ""
        self._reader = hiredis.Reader(replyError=self._refusal)
        self._transport: asyncio.Transport | None = None

    @property
    def is_idle(self) -> bool:
        """Return whether no reply is awaited."""
        return not self._waiting

    def write(self, packed: bytes, asked: Sequence[Asker], patience: float) -> None:
        if self.is_idle:
            self._heard, self._patience = self._loop.time(), 0.0
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_SECONDS, self._look)
        self._patience = max(self._patience, patience)
        self._waiting.extend(asked)
        if self._transport is None:
            self.connection_lost(None)
        else:
            self._transport.write(packed)

    def _look(self, *, again: bool = False) -> None:
        """Disconnect from a server that has been silent for too long."""
        silent = self._loop.time() - self._heard
        if self.is_idle and self._on_push is None:
            self._looking = None
        elif self.is_idle and silent > self._timeout / 2:
            self._looking, asked = None, self._loop.create_future()
            asked.add_done_callback(look_at)
            self.write(PING, (asked,), self._timeout)
        elif self.is_idle or silent <= self._patience:
            self._looking = self._loop.call_later(LOOK_SECONDS, self._look)
        elif not again:  # this process may have been suspended, with the answer unread
            self._looking = self._loop.call_later(0.1, partial(self._look, again=True))
        else:
            self.give_up(f"no answer for {silent:.0f} s")

    def leave(self, reason: str) -> None:
        """Disconnect once the commands in flight are answered, or after a second."""
        if self._leaving:
            return
        self._leaving = True
        lost, self.on_loss = self.on_loss, None
        if lost is not None:
            lost()
        if self.is_idle:
            self.give_up(reason)
        else:
            self._loop.call_later(LEAVE_SECONDS, self.give_up, reason)

    def give_up(self, reason: str) -> None:
        """Disconnect; the commands in flight fail with this reason."""
        self._reason = f": {reason}"
        self.close()

    def _refusal(self, text: str) -> Exception:
        """Return the exception for an error reply."""
        if text.startswith(MOVING):
            if error := misplaced(self.server, text):
                return error
            if text.startswith("MOVED"):
                self._loop.call_soon(self.leave, text)
            return Moving(f"Redis at {self.server} does not have the queue's slot: {text}")
        if not text.startswith(AWAY):
            return ResponseError(text)
        self._loop.call_soon(self.give_up, text)
        return Disconnected(f"Redis at {self.server} is no primary, or not ready: {text}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's isn't a subclass
        if sock := transport.get_extra_info("socket"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        self._heard = self._loop.time()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if isinstance(reply, PUSH) and reply[0] not in CONFIRMATIONS:
                    if self._on_push is not None:
                        self._on_push(reply)
                elif waiting:
                    _settle(waiting.popleft(), reply)
        except hiredis.ProtocolError:
            self.close()
        if self._leaving and self.is_idle:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.gone.set()
        if self._looking is not None:
            self._looking.cancel()
        reason = f": {first_line(exc)}" if exc else self._reason
        error = Disconnected(f"The connection to Redis was lost{reason}")
        while self._waiting:
            _settle(self._waiting.popleft(), error)
        if self.on_loss is not None:
            self.on_loss()


def connect_guide(address: Address) -> Connection:
    """Connect to a Sentinel or a Cluster node, to ask for the primary."""
    return Connection(address, timeout=LONGEST_ASK_SECONDS)


def misplaced(server: Address, refusal: str) -> WrongNodeError | None:
    """Return the error for a refusal that waiting can't cure; None for any other."""
    if server.cluster is None:
        return WrongNodeError(
            f"{server} is a node of a Cluster. Begin REDIS_URL with redis+cluster:// "
            "(with TLS: rediss+cluster://)"
        )
    _, slot, *_ = [*refusal.split(), "", ""]
    if not slot.isdigit() or int(slot) == server.cluster.slot:
        return None
    return WrongNodeError(
        f"A key lies in slot {slot} of the Cluster, and not with the queue. Begin each key with "
        f"REDIS_KEY_PREFIX, which is  {server.cluster.prefix}"
    )


def _arguments(values: Command) -> bytes:
    """Return a part of a command as it is sent."""
    packed: bytes = hiredis.pack_command(tuple(values))  # type: ignore[arg-type]
    return packed[packed.index(b"\n") + 1 :]


def _blocked(command: Command) -> float:
    """Return the seconds that a command may block."""
    words = [word.upper() if isinstance(word, str) else word for word in command]
    if words[0] in {"WAIT", "WAITAOF"}:
        limit = float(words[-1]) / 1000
    elif words[0] not in {"XREADGROUP", "XREAD"}:
        limit = float(words[1 if words[0] == "BLMPOP" else -1])
    elif "BLOCK" in words:
        limit = float(words[words.index("BLOCK") + 1]) / 1000
    else:
        return 0
    return limit or math.inf


def server_ms(reply: list[bytes]) -> int:
    """Return the reply to TIME in milliseconds."""
    seconds, micros = map(int, reply)
    return seconds * 1000 + micros // 1000


def look_at(future: asyncio.Future[Any]) -> None:
    """Retrieve a future's exception, so that asyncio doesn't log it as never retrieved."""
    if not future.cancelled():
        future.exception()


def _settle(future: Asker, reply: Any) -> None:
    if future.done():  # the caller has stopped waiting
        return
    if isinstance(reply, BaseException):
        future.set_exception(reply)
    else:
        future.set_result(reply)
