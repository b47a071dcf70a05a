"""Loads the project's Lua functions under a name that includes a hash of their code.

A file of ``lua/`` holds one subject. Each ``local function name(keys, argv)`` in it can be called;
one with other parameters is a helper. Files are joined in alphabetical order, and each sees those
before it.

A server whose memory is full refuses the functions in GROWING. It runs all others: workers go on
claiming tasks, recording how they end and sending heartbeats, and so memory is freed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from coredis import Redis, RedisCluster
from coredis.exceptions import NoScriptError, ResponseError

from vibetuner.errors import first_line
from vibetuner.redis import answer_seconds
from vibetuner.redis.connection import MOVING_PAUSE, Connection, Moving
from vibetuner.redis.rights import RightsMissing, is_refused

logger = logging.getLogger(__name__)

#: Functions that add tasks, events and progress.
GROWING = frozenset({
    "broadcast", "enqueue", "enqueue_batch", "enqueue_each", "enqueue_once", "enqueue_unique",
    "hand_on", "register_progress", "repeat_call", "settle_letter", "write_progress",
})  # fmt: skip
CALLABLE = re.compile(r"^local function (\w+)\(keys, argv\)", re.MULTILINE)
FORGOTTEN = ("Function not found", "NOSCRIPT")
#: Refusals of a server that can't save, has no memory left, or runs another script: no right is
#: missing, so waiting helps.
PASSING = ("MISCONF", "OOM", "BUSY ")


class FunctionsRefused(RightsMissing):
    """The server allows neither functions nor scripts."""


class Scripts:
    """Calls our functions through coredis's client, as scripts."""

    def __init__(self, client: Redis[Any] | RedisCluster[Any]) -> None:
        self._client = client

    async def call(self, name: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        """Call a function; send its code along if the server doesn't know it."""
        try:
            return await self._client.evalsha(_digest(name), keys, values)
        except NoScriptError:
            return await self._client.eval(_script(name), keys, values)
        except ResponseError as error:
            if not is_refused(error):
                raise
        library, code, _ = _library()
        try:
            return await self._client.fcall(f"{library}_{name}", keys, values)
        except ResponseError as error:
            if FORGOTTEN[0] not in str(error):
                raise
        await self._client.function_load(code)
        return await self._client.fcall(f"{library}_{name}", keys, values)


class Functions:
    """Calls our functions: from the server's function library, or else as scripts."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._seconds = answer_seconds()
        self._heads: dict[str, tuple[str, str]] = {}

    def on(self, connection: Connection) -> Functions:
        """Return the same functions on another connection to the same server."""
        other = Functions(connection)
        other._heads = self._heads
        return other

    async def load(self) -> None:
        """Load the functions into the server.

        Raises:
            FunctionsRefused: the user may use neither functions nor scripts.
            ResponseError: the server refuses every command that may write, for now.
        """
        try:
            await self._load_library()
        except ResponseError as error:
            logger.debug("no functions on this server: %s", first_line(error))
            try:
                await self._load_scripts()
            except ResponseError as refusal:
                if str(refusal).startswith(PASSING):
                    raise refusal from None
                raise FunctionsRefused(
                    f"Redis at {self.connection.address} refuses functions ({first_line(error)}) "
                    f"and scripts ({first_line(refusal)}), without which no task can be enqueued "
                    "or run. Allow one of them; vibetuner doctor  prints the line"
                ) from None

    def ask(
        self, name: str, keys: Sequence[str], values: Sequence[Any], *, shared: bool = False
    ) -> asyncio.Future[Any]:
        """Call a function; the call fails, with nothing done, if the server has forgotten it.

        With ``shared``, it may share a call: see ``Connection.share``.
        """
        head: tuple[Any, ...] = (*self._heads[name], len(keys), *keys)
        if shared:
            return self.connection.share(head, values)
        return self.connection.call(*head, *values)

    async def call(
        self, name: str, keys: Sequence[str], values: Sequence[Any], *, shared: bool = False
    ) -> Any:
        """Call a function like :meth:`ask`; reload it first if the server has forgotten it.

        In a Cluster, wait while a slot is being moved. In both cases the refused call did nothing,
        so calling again doesn't do the work twice.
        """
        end = 0.0
        while True:
            try:
                return await self.ask(name, keys, values, shared=shared)
            except Moving:
                end = end or time.monotonic() + self._seconds
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(MOVING_PAUSE)
            except ResponseError as error:
                if not any(word in str(error) for word in FORGOTTEN):
                    raise
                break
        await self.load()
        return await self.ask(name, keys, values, shared=shared)

    async def _load_library(self) -> None:
        library, code, names = _library()
        try:
            await self.connection.call("FUNCTION", "LOAD", code)
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
        heads = {name: ("FCALL", f"{library}_{name}") for name in names}
        await self.connection.call(*heads["ping"], 0)  # fails if the user may not call functions
        self._heads = heads

    async def _load_scripts(self) -> None:
        heads = {}
        for name in _library()[2]:
            digest = await self.connection.call("SCRIPT", "LOAD", _script(name))
            heads[name] = ("EVALSHA", digest.decode())
        await self.connection.call(*heads["ping"], 0)
        self._heads = heads


@cache
def _files() -> tuple[str, ...]:
    folder = Path(__file__).with_name("lua")
    return tuple(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.lua")))


@cache
def _library() -> tuple[str, str, tuple[str, ...]]:
    """Return the library's name, with a hash of its code; its code; its functions' names."""
    body = "\n".join(_files())
    text = "\n".join([body, *sorted(GROWING)])
    library = f"vibetuner_v1_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    names = tuple(CALLABLE.findall(body))
    lines = (
        f"redis.register_function{{function_name='{library}_{name}', callback={name}, "
        f"flags={{{'' if name in GROWING else repr('allow-oom')}}}}}"
        for name in names
    )
    return library, "\n".join([f"#!lua name={library}", body, *lines, ""]), names


def _script(name: str) -> str:
    """Return the code of one function as a script: its file and the files before it."""
    files = _files()
    last = next(at for at, code in enumerate(files) if name in CALLABLE.findall(code))
    flags = "" if name in GROWING else " flags=allow-oom"
    return "\n".join([f"#!lua{flags}", *files[: last + 1], f"return {name}(KEYS, ARGV)"])


@cache
def _digest(name: str) -> str:
    return hashlib.sha1(_script(name).encode(), usedforsecurity=False).hexdigest()
