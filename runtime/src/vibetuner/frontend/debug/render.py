"""Renders the pages of the dashboard, and turns errors into pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment

from vibetuner.config import get_settings
from vibetuner.errors import (
    CommandError,
    DeadLetterError,
    NotConfigured,
    ServiceUnavailable,
    TaskError,
    VibetunerError,
)
from vibetuner.frontend.debug.gate import COOKIE
from vibetuner.frontend.debug.plots import HEIGHT, bar_chart, line_chart
from vibetuner.project import find_root, project_info, worker_command
from vibetuner.tasks.inspect.queue import answering
from vibetuner.templates import make_environment
from vibetuner.timing import ago, duration

FOLDER = Path(__file__).parent
HOME = "/debug/tasks"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # Not no-referrer: with it, a browser's form would send the origin "null".
    "Referrer-Policy": "same-origin",
}
STATUS: tuple[tuple[type[VibetunerError] | tuple[type[VibetunerError], ...], int], ...] = (
    ((ServiceUnavailable, NotConfigured), 503),
    ((TaskError, DeadLetterError), 409),
    (CommandError, 400),
)
# An action that waits for a worker may take a little longer than a page.
ACTION_SECONDS = 10.0

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class DebugRoute(APIRoute):
    """Responds within five seconds, if necessary with a page that names the cure."""

    def get_route_handler(self) -> Handler:
        """Return the route's handler, with errors turned into pages."""
        handle = super().get_route_handler()

        async def respond(request: Request) -> Response:
            try:
                if request.method != "GET":
                    async with answering(ACTION_SECONDS):
                        return await handle(request)
                async with answering():
                    return await handle(request)
            except VibetunerError as error:
                return _problem(request, error)

        return respond


def page(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page from ``templates/``, under a strict Content-Security-Policy."""
    root = find_root()
    shared = {
        "project": project_info().name if root else get_settings().queue_name,
        "path": quote(request.scope["path"]),  # in request.url, a percent sign stays as it is
        "query": request.url.query,
        "may_lock": COOKIE in request.cookies,
        "said": SAID.get(request.query_params.get("said", "")),
        "now": datetime.now(UTC),
        "start_worker": worker_command(get_settings().environment),
    }
    template = _templates().get_template(name)
    return HTMLResponse(template.render({**shared, **values}), status, HEADERS)


def draw(name: str, **values: Any) -> str:
    """Return a part of a page from ``templates/``."""
    return _templates().get_template(name).render(values)


def back_to(path: str, said: str = "") -> RedirectResponse:
    """Redirect to a page after an action; ``said`` is the key of its message."""
    mark = "&" if "?" in path else "?"
    target = f"{HOME}{path}{f'{mark}said={quote(said)}' if said else ''}"
    return RedirectResponse(target, 303, HEADERS)


SAID = {
    "aborted": "The task has ended.",
    "marked": "Marked: the worker that takes this task ends it before it begins.",
    "enqueued": "Enqueued. This is the new task.",
    "retried": "Enqueued again. This is the new task.",
    "discarded": "Discarded. The record stays.",
}


def _problem(request: Request, error: VibetunerError) -> HTMLResponse:
    status = next((code for kinds, code in STATUS if isinstance(error, kinds)), 500)
    if isinstance(error, LookupError):
        status = 404
    # A link repeats a page, but no action.
    values = {"message": str(error), "may_repeat": status == 503 and request.method == "GET"}
    # A request of htmx is for a part of an open page: it gets the same page, and shows it.
    return page(request, "problem.html", status, code=status, **values)


@cache
def _templates() -> Environment:
    environment = make_environment(FOLDER / "templates", auto_reload=False)
    environment.filters.update(
        ms=duration, ago=ago, secs=lambda span: duration(span.total_seconds() * 1000)
    )
    environment.globals.update(home=HOME, height=HEIGHT, bar_chart=bar_chart, line_chart=line_chart)
    return environment
