"""``ctx=WorkerDepends()``: passes a task the context of its worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from inspect import Signature, iscoroutinefunction, signature
from typing import Any, TypeVar, cast

from vibetuner.config import get_settings
from vibetuner.context import HttpClient, current_context
from vibetuner.lifespan import make_context
from vibetuner.tasks.attempt import current_attempt

F = TypeVar("F", bound=Callable[..., Any])


class _Dependency:
    def __repr__(self) -> str:
        return "WorkerDepends()"


def WorkerDepends() -> Any:  # noqa: N802 - the guide's name
    """Return the default of a task's parameter that is to receive the worker's context.

    A worker passes the value that its lifespan yields. A task that is called directly gets the
    context that is open in the process, or one made for the call.
    """
    return _Dependency()


def is_injected(default: object) -> bool:
    """Return whether a parameter's default asks for the worker's context."""
    return isinstance(default, _Dependency)


def inject(function: F) -> F:
    """Fill in each ``WorkerDepends()`` of ``function`` that the caller left out."""
    sign = signature(function)
    if not any(isinstance(p.default, _Dependency) for p in sign.parameters.values()):
        return function
    if iscoroutinefunction(function):

        @wraps(function)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            async with _open_context() as context:
                return await function(*args, **kwargs, **_missing(sign, args, kwargs, context))

        return cast("F", asynchronous)

    @wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        context = _existing_context()
        if context is None:
            context = make_context(get_settings(), HttpClient())
        return function(*args, **kwargs, **_missing(sign, args, kwargs, context))

    return cast("F", synchronous)


def _missing(
    sign: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
) -> dict[str, Any]:
    given = sign.bind_partial(*args, **kwargs).arguments
    return {
        name: context
        for name, parameter in sign.parameters.items()
        if isinstance(parameter.default, _Dependency) and name not in given
    }


@asynccontextmanager
async def _open_context() -> AsyncIterator[Any]:
    if (context := _existing_context()) is not None:
        yield context
        return
    client = HttpClient()
    try:
        yield make_context(get_settings(), client)
    finally:
        await client.close()


def _existing_context() -> Any:
    attempt = current_attempt()
    context = None if attempt is None else attempt.context  # a lifespan may yield nothing
    return current_context.peek() if context is None else context
