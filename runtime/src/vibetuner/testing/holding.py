"""Small tools for the fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")


def name_database(url: str, name: str) -> str:
    """Point a MongoDB URL at the database ``name``, with the same credentials.

    >>> name_database("mongodb://ann:pw@a:1,b:2/shop?tls=true", "test_1")
    'mongodb://ann:pw@a:1,b:2/test_1?tls=true&authSource=shop'
    """
    parts = urlsplit(url)
    query = parts.query
    if "@" in parts.netloc and "authsource=" not in query.lower():
        source = parts.path.strip("/") or "admin"
        query = f"{query}&authSource={source}" if query else f"authSource={source}"
    return urlunsplit(parts._replace(path=f"/{name}", query=query))


@asynccontextmanager
async def held_open(manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave ``manager`` in a task of its own.

    A fixture is set up and torn down in different tasks, which a cancel scope does not allow.
    """
    entered: asyncio.Future[T] = _asyncio_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with manager as value:
                entered.set_result(value)
                await leave.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task: asyncio.Task[Any] = asyncio.create_task(hold())
    value = await entered
    try:
        yield value
    finally:
        leave.set()
        await task


def _asyncio_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "vibetuner's fixtures need asyncio. With anyio's plugin, define in conftest.py a "
            "fixture anyio_backend that returns 'asyncio'"
        ) from None
