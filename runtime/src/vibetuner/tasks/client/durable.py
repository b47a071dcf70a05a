"""Enqueues that wait until the task is on the server's disk and on its replicas.

A connection that waits for that can send nothing else, so durable calls use connections of their
own. Calls that arrive while all of these are busy are sent together and share the next wait.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar

from coredis.exceptions import RedisError

from vibetuner.errors import NotDurable, RedisFull, ServiceUnavailable, first_line
from vibetuner.redis import answer_seconds
from vibetuner.redis.connection import Connection, look_at
from vibetuner.redis.url import Address

DURABLE_SECONDS = 5.0
WRITERS = 4
MARK_MS = 1000
#: The first version of Redis with WAITAOF; every Valkey has it.
HAS_WAITAOF = (7, 2)
CLOSED = "the queue was closed"
CURE = "Check it:  vibetuner doctor"

Place = tuple[str, int]

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Keeping:
    """The means by which a server keeps a write: its replicas and its append-only file.

    Args:
        version: the server's version, as Redis numbers versions.
        replicas: the number of replicas that follow the server.
        has_sentinels: whether Sentinels or a Cluster decide which server is the primary.
        known: the replicas that Sentinels or Cluster report as up, including one that has left this
            server because it is being promoted.

    >>> Keeping("7.2.4", 0, False).problem()
    ('it keeps tasks in memory alone', 'Set appendonly yes there, or start a replica')
    """

    version: str
    replicas: int
    has_file: bool
    has_sentinels: bool = False
    known: AbstractSet[Place] = frozenset()
    followers: AbstractSet[Place] = frozenset()

    @classmethod
    def read(
        cls,
        info: Mapping[str, Any],
        *,
        has_sentinels: bool = False,
        known: AbstractSet[Place] = frozenset(),
    ) -> Keeping:
        """Parse the reply to INFO; a replica counts once it has received all earlier writes."""
        replicas = (str(info[key]) for key in info if re.fullmatch(r"slave\d+", key))
        online = [one for one in replicas if "online" in one]
        places = (re.search(r"ip=([^,]+),port=(\d+)", one) for one in online)
        return cls(
            str(info.get("redis_version", "0")),
            len(online),
            str(info.get("aof_enabled", "0")) == "1",
            has_sentinels,
            known,
            {(place[1], int(place[2])) for place in places if place},
        )

    @property
    def missing(self) -> int:
        """Return how many of the known replicas don't follow the server."""
        return len(self.known - self.followers)

    @property
    def on_disk(self) -> bool:
        """Return whether the server can confirm that a write is on its disk."""
        return (
            self.has_file and tuple(map(int, re.findall(r"\d+", self.version)))[:2] >= HAS_WAITAOF
        )

    @property
    def places(self) -> str:
        """Return, in words, where a write has to arrive."""
        replicas = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        return " and ".join([replicas] * bool(self.replicas) + ["the disk"] * self.on_disk)

    def problem(self) -> tuple[str, str] | None:
        """Return why no write is durable there, and the cure; None if writes can be durable.

        A failover replaces a primary together with its disk, so with Sentinels only replicas count.
        """
        if self.has_sentinels and not self.replicas:
            return "it has no replica, so that the next failover would lose the task", "Start one"
        if away := max(self.missing, len(self.known) - self.replicas):
            left = len(self.known) - away
            text = f"{left} of its {len(self.known)} replicas follow it; one may replace it now"
            return text, "Try again"
        if self.replicas or self.on_disk:
            return None
        if self.has_file:
            text = f"version {self.version} can't say when a write is on disk"
            return text, "Use Redis 7.2 or newer, or Valkey, or start a replica"
        return "it keeps tasks in memory alone", "Set appendonly yes there, or start a replica"


class Durability(Generic[C]):
    """The durable writes of a process.

    Args:
        address: the server, or the Sentinels that know it; connected to at the first write.
        make_client: makes a client of the queue on a connection.
        mark: a key that is written before each wait, because WAIT covers only the writes of its
            own connection, and a call whose task was there already has written nothing.
    """

    def __init__(self, address: Address, make_client: Callable[[Connection], C], mark: str) -> None:
        self._address = address
        self._make_client = make_client
        self._mark = mark
        self._seconds = answer_seconds()
        self._writers: list[_Writer[C]] = []
        self._calls: list[_Call[C]] = []

    async def keep(
        self, write: Callable[[C], Awaitable[T]], what: str, patience: bool | timedelta = True
    ) -> T:
        """Do a write, and return its result once it is durable.

        Args:
            what: the task or tasks, for the error's message.
            patience: the longest wait; True for 5 seconds.

        Raises:
            NotDurable: no confirmation arrives in time, or the server can't give one.
        """
        loop = asyncio.get_running_loop()
        seconds = patience.total_seconds() if isinstance(patience, timedelta) else DURABLE_SECONDS
        call = _Call(
            write, what, self._address, seconds, loop.create_future(), loop.time() + seconds
        )
        self._calls.append(call)
        self._serve_soon()
        try:
            async with asyncio.timeout_at(call.deadline):
                answer: T = await call.answer
                return answer
        except TimeoutError:
            raise call.error(call.late) from None
        finally:
            if call in self._calls:
                self._calls.remove(call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect; unconfirmed writes raise NotDurable."""
        writers, self._writers = self._writers, []
        serving = [writer.serving for writer in writers if writer.serving is not None]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for writer in writers:
            await writer.connection.close()
        for call in self._calls:
            call.refuse(CLOSED)

    def _serve_soon(self) -> None:
        writer = next((writer for writer in self._writers if writer.is_free), None)
        if writer is None and len(self._writers) < WRITERS:
            writer = _Writer(self._address, self._make_client, self._mark, self._seconds)
            self._writers.append(writer)
        if writer is not None:
            writer.serving = asyncio.get_running_loop().create_task(self._serve(writer))

    async def _serve(self, writer: _Writer[C]) -> None:
        while self._calls:
            calls, self._calls = self._calls, []
            try:
                await writer.keep(calls)
            finally:
                for call in calls:
                    call.refuse(CLOSED)


@dataclass(slots=True, eq=False)
class _Call(Generic[C]):
    """A write in progress; ``queued`` is None while it is unknown whether the task is queued."""

    write: Callable[[C], Awaitable[Any]]
    what: str
    address: Address
    seconds: float
    answer: asyncio.Future[Any]
    deadline: float
    queued: bool | None = False
    places: str = ""

    @property
    def late(self) -> str:
        who = f"no confirmation by {self.places}" if self.places else "no answer"
        return f"{who} within {self.seconds:g} s"

    def refuse(self, reason: str, cure: str = CURE) -> None:
        if not self.answer.done():
            self.answer.set_exception(self.error(reason, cure))

    def error(self, reason: str, cure: str = CURE) -> NotDurable:
        state = {
            True: "queued, but not confirmed as durable",
            False: "not enqueued",
            None: "not confirmed as durable, and perhaps not queued",
        }[self.queued]
        error = NotDurable(f"{self.what}: {state}, as of Redis at {self.address}: {reason}. {cure}")
        error.queued = self.queued
        return error


class _Writer(Generic[C]):
    """A connection for durable writes; those that are sent together share one wait."""

    def __init__(
        self, address: Address, make_client: Callable[[Connection], C], mark: str, seconds: float
    ) -> None:
        self.connection = Connection(address, timeout=seconds, on_loss=self._lose)
        self.serving: asyncio.Task[None] | None = None
        self._client = make_client(self.connection)
        self._mark = mark
        self._losses = 0
        self._names_agree = False

    @property
    def is_free(self) -> bool:
        return self.serving is None or self.serving.done()

    async def keep(self, calls: Sequence[_Call[C]]) -> None:
        losses = self._losses
        try:
            keeping = await self._inspect()
        except RedisError as error:
            for call in calls:
                call.refuse(first_line(error))
            return
        if problem := keeping.problem():
            for call in calls:
                call.refuse(*problem)
            return
        # Skip callers that have given up: their error says that nothing was enqueued.
        written = await self._write([call for call in calls if not call.answer.done()])
        if not written:
            return
        for call in written:
            call.places = keeping.places
        left = max(call.deadline for call in written) - asyncio.get_running_loop().time()
        is_confirmed, reason = await self._wait(keeping, max(1, round(1000 * left)))
        # A new connection can't wait for the writes of a lost one.
        is_lost = self._losses != losses
        for call, answer in written.items():
            if is_lost:
                call.queued = None
            if is_lost or not is_confirmed:
                call.refuse(reason or ("the connection was lost" if is_lost else call.late))
            elif not call.answer.done():
                call.answer.set_result(answer)

    async def _inspect(self) -> Keeping:
        await self.connection.connect()
        # Ask Sentinels or Cluster first, so that a replica that leaves meanwhile counts as missing.
        known = await self.connection.replicas()
        reply = await self.connection.call("INFO", "server", "replication", "persistence")
        lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
        info = {name: value for name, _, value in lines}
        has_sentinels = self.connection.address.guides is not None
        keeping = Keeping.read(info, has_sentinels=has_sentinels, known=known)
        # If addresses are translated, Sentinels and server have different names for a replica.
        self._names_agree |= keeping.missing < len(known)
        return keeping if self._names_agree else replace(keeping, followers=known)

    async def _write(self, calls: Sequence[_Call[C]]) -> dict[_Call[C], Any]:
        """Do all writes concurrently; return those that were done, with their results."""
        for call in calls:
            call.queued = None
        writes = (call.write(self._client) for call in calls)
        answers = await asyncio.gather(*writes, return_exceptions=True)
        written = {}
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, ServiceUnavailable) and not isinstance(answer, RedisFull):
                call.refuse(first_line(answer))
            elif not isinstance(answer, BaseException):
                call.queued, written[call] = True, answer
            elif not call.answer.done():
                call.answer.set_exception(answer)
        return written

    async def _wait(self, keeping: Keeping, milliseconds: int) -> tuple[bool, str]:
        """Wait for the replicas and the disk; return whether they have the writes, or why not."""
        self._call("SET", self._mark, 1, "PX", MARK_MS)
        replicas = self._call("WAIT", keeping.replicas, milliseconds)
        disk = self._call("WAITAOF", 1, 0, milliseconds) if keeping.on_disk else None
        try:
            has_arrived = await replicas >= keeping.replicas
            return has_arrived and (disk is None or bool((await disk)[0])), ""
        except RedisError as error:
            return False, first_line(error)

    def _call(self, *command: str | float) -> asyncio.Future[Any]:
        future = self.connection.call(*command)
        future.add_done_callback(look_at)
        return future

    def _lose(self) -> None:
        self._losses += 1
