"""Calls ``VibetunerApp(on_error=...)`` for requests that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from vibetuner.errors import ErrorContext
from vibetuner.hooks import Hooks


class ErrorHook:
    """Calls the project's function for exceptions that no handler answers, and for outages.

    It is not called for an ``HTTPException``, nor for an exception that a handler of the project
    answers.

    Args:
        on_error: the project's function.
    """

    def __init__(self, on_error: Callable[[BaseException, ErrorContext], Any]) -> None:
        self._on_error = on_error
        self._hooks = Hooks()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Run the hook's calls; at the end of the block, give them two seconds to return."""
        self._hooks = hooks = Hooks()
        try:
            yield
        finally:
            await hooks.close()

    def call(self, error: BaseException, scope: Scope) -> None:
        """Call the function soon; nothing waits for it."""
        route = getattr(scope.get("route"), "path", None) or scope["path"]
        is_http = scope["type"] == "http"
        name = f"{scope['method'] if is_http else 'WebSocket'} {route}"
        connection = Request(scope) if is_http else HTTPConnection(scope)
        about = ErrorContext(name=name, request=connection)
        self._hooks.call(f"on_error for {name}", self._on_error, error, about)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Wrap ``app`` to report the exceptions that it raises."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except Exception as error:
                if scope["type"] != "lifespan":
                    self.call(error, scope)
                raise

        return serve
