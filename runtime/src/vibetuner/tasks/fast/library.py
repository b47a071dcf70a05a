"""Our functions on the server: loaded under a name that nobody else has, replacing nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from coredis.exceptions import ResponseError

from vibetuner.errors import first_line
from vibetuner.resources.wire import Wire

__all__ = ["Library", "Scripts"]

logger = logging.getLogger(__name__)

NAMES = ("read", "start", "finish", "enqueue", "due")
GONE = ("Function not found", "NOSCRIPT")


class Scripts(Protocol):
    """What runs scripts on the server: a client, or a :class:`Library`."""

    def eval(
        self, script: str, keys: Sequence[str], args: Sequence[str | bytes | float]
    ) -> Awaitable[Any]:
        """Run one."""
        ...


class Library:
    """Calls our functions, as a library of the server's or, where it has none, as scripts."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._heads: dict[str, tuple[str, str]] = {}

    async def load(self) -> bool:
        """Make the functions known to the server; whether it lets us."""
        try:
            await self._load_functions()
        except ResponseError as error:
            logger.debug("no functions on this server: %s", first_line(error))
            try:
                await self._load_scripts()
            except ResponseError as refusal:
                logger.debug("no scripts on this server: %s", first_line(refusal))
                return False
        return True

    def ask(self, name: str, keys: tuple[str, ...], values: list[Any]) -> asyncio.Future[Any]:
        """Call a function; it fails when the server has forgotten it, having done nothing."""
        return self.wire.call(*self._heads[name], len(keys), *keys, *values)

    async def call(self, name: str, keys: tuple[str, ...], values: list[Any]) -> Any:
        """Call a function; one that the server has forgotten is loaded again first."""
        try:
            return await self.ask(name, keys, values)
        except ResponseError as error:
            # Nothing was done, so that doing it now is not doing it twice.
            if not any(word in str(error) for word in GONE) or not await self.load():
                raise
        return await self.ask(name, keys, values)

    def eval(
        self, script: str, keys: Sequence[str], args: Sequence[str | bytes | float]
    ) -> asyncio.Future[Any]:
        """Run a script, as the client's method of that name does."""
        return self.wire.call("EVAL", script, len(keys), *keys, *args)

    async def unblock(self, client: int) -> None:
        """End the blocking call of another connection of ours."""
        await self.wire.call("CLIENT", "UNBLOCK", client)

    async def _load_functions(self) -> None:
        library, code = _library()
        try:
            await self.wire.call("FUNCTION", "LOAD", code)
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
        await self.wire.call("FCALL", f"{library}_enqueue", 1, "", 0)  # whether that is allowed
        self._heads = {name: ("FCALL", f"{library}_{name}") for name in NAMES}

    async def _load_scripts(self) -> None:
        heads = {}
        for name in NAMES:
            code = f"{_body()}\nreturn {name}(KEYS, ARGV)"
            heads[name] = ("EVALSHA", (await self.wire.call("SCRIPT", "LOAD", code)).decode())
        await self.wire.call(*heads["enqueue"], 1, "", 0)
        self._heads = heads


@cache
def _body() -> str:
    return Path(__file__).with_name("functions.lua").read_text(encoding="utf-8")


@cache
def _library() -> tuple[str, str]:
    """Its name, which changes with what is in it, and its code."""
    library = f"vibetuner_v1_{hashlib.sha256(_body().encode()).hexdigest()[:8]}"
    registered = "\n".join(f"redis.register_function('{library}_{name}', {name})" for name in NAMES)
    return library, f"#!lua name={library}\n{_body()}\n{registered}\n"
