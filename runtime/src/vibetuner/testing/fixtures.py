"""Tools for the fixtures: settings that a test changes, and context managers held open for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from vibetuner.config import Expected, Settings, get_settings, using_settings
from vibetuner.errors import SettingsError, suggest

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


class SettingsOverride:
    """The current settings, and a way to change some: ``vibetuner_settings(debug=True)``.

    Reading ``vibetuner_settings.debug`` is reading ``get_settings().debug``.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, **values: Any) -> Settings:
        """Use these values until the test's end; return the settings.

        Raises:
            SettingsError: there is no such setting, or it does not take this value.
        """
        current = get_settings()
        for name in values.keys() - Settings.model_fields.keys():
            hint = suggest(name, Settings.model_fields, "See vibetuner.config.Settings", "{}=")
            raise SettingsError(f"There is no setting named {name}. {hint}")
        try:
            changed = type(current)(**{**dict(current), **values})
        except ValidationError as error:
            raise SettingsError(_explain(error, values)) from None
        return self._stack.enter_context(using_settings(changed))

    def __getattr__(self, name: str) -> Any:
        return getattr(get_settings(), name)


@contextmanager
def overriding() -> Iterator[SettingsOverride]:
    """Restore overridden settings at the end of the block."""
    with ExitStack() as stack:
        yield SettingsOverride(stack)


def _asyncio_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "vibetuner's fixtures need asyncio. With anyio's plugin, define in conftest.py a "
            "fixture anyio_backend that returns 'asyncio'"
        ) from None


def _explain(error: ValidationError, values: dict[str, Any]) -> str:
    names = {str(place).lower() for detail in error.errors() for place in detail["loc"][:1]}
    for name in sorted(names & values.keys()):
        metadata = Settings.model_fields[name].metadata
        expected = next(item.text for item in metadata if isinstance(item, Expected))
        return f"{name}= takes {expected}"
    return f"{', '.join(sorted(values))}= can't be set together with environment=production"
