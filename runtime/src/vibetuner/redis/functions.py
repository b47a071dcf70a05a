"""Our Lua functions: loaded under a name that nobody else has, replacing nothing.

A file of ``lua/`` holds one subject. Each ``local function name(keys, argv)`` in it can be called;
one with other parameters is a helper. ``common.lua`` stands before each of the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from coredis.exceptions import ResponseError

from vibetuner.errors import ServiceUnavailable, first_line
from vibetuner.redis.connection import Connection

__all__ = ["Functions", "FunctionsRefused", "Scripts"]

logger = logging.getLogger(__name__)

CALLABLE = re.compile(r"^local function (\w+)\(keys, argv\)", re.MULTILINE)
FORGOTTEN = ("Function not found", "NOSCRIPT")

Value = str | bytes | float


class FunctionsRefused(ServiceUnavailable):
    """The server lets us neither load functions nor scripts."""


class Scripts(Protocol):
    """What runs scripts on the server: a client, or :class:`Functions`."""

    def eval(self, script: str, keys: Sequence[str], args: Sequence[Value]) -> Awaitable[Any]:
        """Run one."""
        ...


class Functions:
    """Calls our functions, as a library of the server's or, where it has none, as scripts."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._heads: dict[str, tuple[str, str]] = {}

    async def load(self) -> None:
        """Make the functions known to the server.

        Raises:
            FunctionsRefused: its user may use neither functions nor scripts.
        """
        try:
            await self._load_library()
        except ResponseError as error:
            logger.debug("no functions on this server: %s", first_line(error))
            try:
                await self._load_scripts()
            except ResponseError as refusal:
                raise FunctionsRefused(
                    f"Redis at {self.connection.address} refuses functions ({first_line(error)}) "
                    f"and scripts ({first_line(refusal)}), without which no task can be enqueued "
                    "or run. Allow one of them; vibetuner doctor  prints the line"
                ) from None

    def ask(self, name: str, keys: Sequence[str], values: Sequence[Any]) -> asyncio.Future[Any]:
        """Call a function; it fails when the server has forgotten it, having done nothing."""
        return self.connection.call(*self._heads[name], len(keys), *keys, *values)

    async def call(self, name: str, keys: Sequence[str], values: Sequence[Any]) -> Any:
        """Call a function; one that the server has forgotten is loaded again first."""
        try:
            return await self.ask(name, keys, values)
        except ResponseError as error:
            # Nothing was done, so that doing it now is not doing it twice.
            if not any(word in str(error) for word in FORGOTTEN):
                raise
        await self.load()
        return await self.ask(name, keys, values)

    def eval(self, script: str, keys: Sequence[str], args: Sequence[Value]) -> asyncio.Future[Any]:
        """Run a script, as the client's method of that name does."""
        return self.connection.call("EVAL", script, len(keys), *keys, *args)

    async def unblock(self, client: int) -> None:
        """End the blocking call of another connection of ours."""
        await self.connection.call("CLIENT", "UNBLOCK", client)

    async def _load_library(self) -> None:
        library, code, names = _library()
        try:
            await self.connection.call("FUNCTION", "LOAD", code)
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
        heads = {name: ("FCALL", f"{library}_{name}") for name in names}
        await self.connection.call(*heads["ping"], 0)  # fails where calling is forbidden
        self._heads = heads

    async def _load_scripts(self) -> None:
        heads = {}
        for name in _library()[2]:
            digest = await self.connection.call("SCRIPT", "LOAD", _script(name))
            heads[name] = ("EVALSHA", digest.decode())
        await self.connection.call(*heads["ping"], 0)
        self._heads = heads


@cache
def _files() -> dict[str, str]:
    folder = Path(__file__).with_name("lua")
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.lua"))}


@cache
def _library() -> tuple[str, str, tuple[str, ...]]:
    """Its name, which changes with what is in it, its code, and the names of its functions."""
    files = _files()
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:8]
    library = f"vibetuner_v1_{digest}"
    names: list[str] = []

    def registered(code: str) -> str:
        found = CALLABLE.findall(code)
        names.extend(found)
        lines = (f"redis.register_function('{library}_{name}', {name})" for name in found)
        return "\n".join([code, *lines])

    # A block each, so that no file sees another's helpers and no limit of Lua's is near.
    blocks = [f"do\n{registered(code)}\nend" for stem, code in files.items() if stem != "common"]
    parts = [f"#!lua name={library}", registered(files["common"]), *blocks, ""]
    return library, "\n".join(parts), tuple(names)


@cache
def _script(name: str) -> str:
    """The code of one function by itself, as a script."""
    files = _files()
    subject = next(stem for stem, code in files.items() if name in CALLABLE.findall(code))
    own = "" if subject == "common" else files[subject]
    return f"{files['common']}\n{own}\nreturn {name}(KEYS, ARGV)"
