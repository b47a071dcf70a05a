"""Requests that fail: HTML for people, JSON for programs, and calls of ``on_error=``."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import import_module
from typing import Any

from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vibetuner.config import Settings
from vibetuner.errors import ErrorContext
from vibetuner.hooks import Hooks
from vibetuner.templates import get_templates

logger = logging.getLogger(__name__)

#: PostgreSQL's SQLSTATEs for a text that its encoding or JSON doesn't have, for one that is longer
#: than its column, and for a number out of range
NOT_STORABLE = frozenset({"22021", "22P05", "22001", "22003"})
OWN, OURS = "error.html", "vibetuner/error.html"
# A title and a sentence for what people see most; every other status has its name.
WORDS = {
    403: ("This page is not for you", "You may not see it, or may not do this."),
    404: ("There is nothing here", "The address may be mistyped, or the page has moved."),
    422: ("Something is missing", "The address or the form is not complete."),
    500: ("Something went wrong", "The mistake is ours. It is in the log."),
    503: ("Not now", "Try again soon."),
}


def error_handlers(headers: Mapping[str, str]) -> dict[Any, Any]:
    """Return the handlers of errors that a project does not handle itself.

    The page for an unexpected error gets ``headers``, as no middleware can add them.
    """

    async def crashed(request: Request, _error: Exception) -> Response:
        answer = with_page(request, JSONResponse({"detail": "Internal Server Error"}, 500))
        answer.headers.update(headers)
        return answer

    return {
        HTTPException: refused,
        RequestValidationError: _invalid,
        ClientDisconnect: _left,
        500: crashed,
    }


def with_page(request: Request, answer: Response, message: str = "") -> Response:
    """Return a page instead of an answer in JSON, if a browser asks for one to show.

    The page is ``templates/error.html`` of the project, or the runtime's own.

    Args:
        request: the request; a browser names ``text/html`` in its ``Accept``.
        answer: the answer for programs.
        message: one sentence for people; by default, one that fits the status.
    """
    status = answer.status_code
    accepted = request.headers.get("accept", "")
    if status >= 400 and "text/html" in accepted and "application/json" not in accepted:
        kept = {
            name: value
            for name, value in answer.headers.items()
            if name not in {"content-length", "content-type"}
        }
        title, sentence = WORDS.get(status, (_phrase(status), ""))
        text = _draw(status_code=status, title=title, message=message or sentence)
        answer = HTMLResponse(text, status, kept)
    answer.headers.add_vary_header("Accept")
    return answer


async def refused(request: Request, error: HTTPException) -> Response:
    """Return the response for an HTTPException, as a page if a browser asks for one."""
    answer = await http_exception_handler(request, error)
    detail: Any = error.detail
    is_own = isinstance(detail, str) and detail != _phrase(error.status_code)
    return with_page(request, answer, detail if is_own else "")


def value_handlers(settings: Settings) -> dict[Any, Any]:
    """Return the handlers of errors for values that the SQL database can't store.

    Anybody can send a NUL, a text that is too long or a number with 20 digits, in a path or in a
    form. PostgreSQL refuses them all, and SQLite the number.
    """
    if not settings.database_url:
        return {}

    async def unstorable(request: Request, error: Exception) -> Response:
        if not _is_of_value(error):
            raise error
        message = "The request holds a text or a number that can't be stored."
        return with_page(request, JSONResponse({"detail": message}, 422), message)

    # Loaded on demand, like the driver.
    refusals = (import_module("sqlalchemy.exc").DBAPIError, OverflowError)
    return dict.fromkeys(refusals, unstorable)


def _is_of_value(error: Exception) -> bool:
    if isinstance(error, OverflowError):  # sqlite3 raises it, and so may any other code
        return "SQLite INTEGER" in str(error)
    refusal: BaseException | None = getattr(error, "orig", None)
    if getattr(refusal, "sqlstate", None) in NOT_STORABLE:
        return True
    # asyncpg refuses a number that does not fit before it sends the statement.
    while refusal is not None and not isinstance(refusal, OverflowError):
        refusal = refusal.__cause__
    return refusal is not None


async def _left(_request: Request, _error: ClientDisconnect) -> Response:
    """Answer a client that left before its whole body had come, which is no fault of the app."""
    return Response(status_code=400)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """Answer as FastAPI does, but without the input if JSON can't represent it."""
    answer: Response
    try:
        answer = await request_validation_exception_handler(request, error)
    except (ValueError, RecursionError):  # not UTF-8, NaN, or nested too deeply
        names = ("type", "loc", "msg")
        details = [{name: one[name] for name in names} for one in error.errors()]
        body = json.dumps({"detail": details})
        answer = Response(body, 422, media_type="application/json")
    return with_page(request, answer)


def _draw(**values: Any) -> str:
    """Render the project's page; if it is broken, log the reason and render the runtime's."""
    templates = get_templates()
    render: Callable[..., str] = templates.get_template(OURS).render
    try:
        return templates.select_template([OWN, OURS]).render(values)
    except Exception:
        logger.exception("the template %s can't be rendered", OWN)
        return render(values)


def _phrase(status: int) -> str:
    """Return a status in words.

    >>> _phrase(404), _phrase(499)
    ('Not Found', 'Error 499')
    """
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Error {status}"


class ErrorHook:
    """Calls the project's function for exceptions that no handler answers, and for outages.

    It is not called for an ``HTTPException``, nor for an exception that a handler of the project
    answers.
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
