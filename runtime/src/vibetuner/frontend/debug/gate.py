"""The gate: lets a request below ``/debug`` through in development, or with a ticket."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vibetuner.config import Settings
from vibetuner.frontend.debug.tickets import get_revoked, read

COOKIE = "vibetuner_debug"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
NEVER_KEPT = {
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def is_open(settings: Settings, request: Request) -> bool:
    """Return whether a request may pass without a ticket.

    In development with DEBUG, the gate is open to this machine; in production, never.
    """
    if not settings.debug or settings.environment == "production":
        return False
    return settings.environment == "test" or is_local(settings, request)


def is_local(settings: Settings, request: Request) -> bool:
    """Return whether a request comes from this machine, and for one of its names.

    A page of another site can point its own name at a loopback address, but the request has that
    name.
    """
    if not is_loopback(request.url.hostname or ""):
        return False
    return settings.published_locally or request.client is None or is_loopback(request.client.host)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> hosts = ("127.0.0.1", "::1", "localhost", "shop.localhost", "0.0.0.0", "box")
    >>> [is_loopback(host) for host in hosts]
    [True, True, True, True, False, False]
    """
    if f".{host.lower()}".endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """Answers 404 to requests below ``/debug`` that may not pass, as if nothing were there.

    Requests that change something must come from our own pages. Responses behind the gate are
    neither cached nor indexed.

    Args:
        settings: returns the settings for each request.
        free: returns whether a request may pass without a ticket.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Callable[[], Settings],
        free: Callable[[Request], bool] | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._free = free or (lambda request: is_open(settings(), request))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        path = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", "")))
        if scope["type"] not in {"http", "websocket"} or not _is_debug(path):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        request = Request(scope, receive)
        if not await self._may_pass(request):
            answer = await _not_found(request)
            await answer(scope, receive, never_kept(send))
        elif request.method not in SAFE_METHODS and not is_own_origin(request):
            answer = PlainTextResponse(FOREIGN, status_code=403)
            await answer(scope, receive, never_kept(send))
        else:
            await self._app(scope, receive, never_kept(send))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A handshake has the headers of a GET, but its Origin is checked like that of a change.
        request = Request({**scope, "type": "http"})
        if await self._may_pass(request) and is_own_origin(request):
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _may_pass(self, request: Request) -> bool:
        if self._free(request):
            return True
        ticket = read(self._settings(), request.cookies.get(COOKIE, ""))
        return ticket is not None and not await get_revoked().holds(ticket)


FOREIGN = (
    "This request does not come from a page of this site. If it does, let the proxy in front "
    "pass on the Host header.\n"
)


def is_own_origin(request: Request) -> bool:
    """Return whether the browser reports that the request comes from a page of this site."""
    if request.headers.get("Sec-Fetch-Site") == "same-origin":
        return True  # a page can't set this header
    return is_same_host(request)


def is_same_host(request: HTTPConnection) -> bool:
    """Return whether ``Origin`` names the host that the request is for."""
    origin, host = request.headers.get("Origin", ""), request.headers.get("Host", "")
    # Not urlsplit: it raises ValueError for malformed text, which anybody can send.
    return bool(host) and origin.partition("://")[2].lower() == host.lower()


def never_kept(send: Send) -> Send:
    """Wrap ``send`` to add headers that keep a response out of caches, indexes and frames."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(NEVER_KEPT)
        await send(message)

    return sending


def _is_debug(path: str) -> bool:
    """Return whether a path is below ``/debug``, in any spelling.

    >>> [_is_debug(path) for path in ("/debug", "/debug/x", "//debug/x", "/debugger")]
    [True, True, True, False]
    """
    first = next(filter(None, path.split("/")), "")
    return first.lower() == "debug"


async def _not_found(request: Request) -> Response:
    """Return the app's response for a missing page."""
    error = HTTPException(404)
    handlers: dict[Any, Any] = getattr(request.scope.get("app"), "exception_handlers", {})
    handler = handlers.get(404) or handlers.get(HTTPException)
    if handler is None:
        return JSONResponse({"detail": error.detail}, 404)
    answer = handler(request, error)
    if not hasattr(answer, "__await__"):
        return await run_in_threadpool(handler, request, error)
    response: Response = await answer
    return response
