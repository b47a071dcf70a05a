"""Guards of every response: security headers and Origin checks; and responses to HEAD."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vibetuner.frontend.debug.gate import FOREIGN, SAFE_METHODS, is_same_host
from vibetuner.state import for_requests

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
DEFAULT_HEADERS: Mapping[str, str] = {
    # Without it, a browser guesses how long a file stays fresh, and shows an old one for days.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
AGAIN_SECONDS = "5"
BUSY = frozenset({429, 503})


class Guards:
    """Refuses changes requested by pages of other sites, and adds missing security headers.

    A request without ``Origin`` and ``Sec-Fetch-Site`` does not come from a browser's page, and
    passes: a webhook or a script. A 429 or 503 gets ``Retry-After``. Outside systems have five
    seconds to answer a request. A HEAD is answered like a GET, without the body.

    Args:
        headers: added to the default ones; None removes a default.
        trusted_origins: other origins whose pages may change something; ``*`` for all.
    """

    def __init__(
        self,
        app: ASGIApp,
        headers: Mapping[str, str | None] | None = None,
        trusted_origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._trusted = frozenset(origin.rstrip("/").lower() for origin in trusted_origins)
        self._headers = list(guard_headers(headers).items())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] == "http":
            send = self._adding(send)
            if scope["method"] not in SAFE_METHODS and self._is_foreign(scope):
                await PlainTextResponse(REFUSED, 403)(scope, receive, send)
                return
            if scope["method"] == "HEAD" and not _answers_head(scope):
                scope, send = {**scope, "method": "GET"}, _without_body(send)
            with for_requests():
                await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket" and self._is_foreign(scope):
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if "*" in self._trusted or (origin or "").lower() in self._trusted:
            return False
        if site is not None:
            return site not in {"same-origin", "none"}
        return origin is not None and not is_same_host(HTTPConnection(scope))

    def _adding(self, send: Send) -> Send:
        # Not async itself, which saves an event stream a second coroutine.
        def sending(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers:
                    headers.setdefault(name, value)
                if message["status"] in BUSY:
                    headers.setdefault("Retry-After", AGAIN_SECONDS)
            return send(message)

        return sending


def _answers_head(scope: Scope) -> bool:
    """Return whether a route answers HEAD itself; those of FastAPI don't, and monitors send it."""
    app = scope.get("app")
    return app is None or any(route.matches(scope)[0] is Match.FULL for route in app.routes)


def _without_body(send: Send) -> Send:
    ended = False

    async def sending(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.start":
            await send(message)
        elif not ended:  # the end of the response stops an event stream, too
            ended = True
            await send({"type": "http.response.body"})

    return sending


def guard_headers(headers: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the default headers with a project's own; None removes a default."""
    own = {name.title(): value for name, value in (headers or {}).items()}
    wanted = {**{name.title(): value for name, value in DEFAULT_HEADERS.items()}, **own}
    return {name: value for name, value in wanted.items() if value is not None}


REFUSED = FOREIGN + "To let the pages of another site do this, add it to trusted_origins=.\n"
