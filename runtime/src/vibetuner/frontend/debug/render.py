"""How a page of the dashboard is made, and what it says when something is missing."""

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
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined

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
from vibetuner.frontend.debug.plots import bars, lines
from vibetuner.project import find_root, project_info, worker_command
from vibetuner.tasks.overview.queue import answering
from vibetuner.templates import OURS, htmx_scripts

__all__ = ["FOLDER", "DebugRoute", "back_to", "draw", "page"]

FOLDER = Path(__file__).parent
HOME = "/debug/tasks"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # Not no-referrer, with which a browser's form would send the origin "null".
    "Referrer-Policy": "same-origin",
}
STATUS: tuple[tuple[type[VibetunerError] | tuple[type[VibetunerError], ...], int], ...] = (
    ((ServiceUnavailable, NotConfigured), 503),
    ((TaskError, DeadLetterError), 409),
    (CommandError, 400),
)
# An action that waits for a worker's word takes a little longer than a page.
ACTION_SECONDS = 10.0

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class DebugRoute(APIRoute):
    """Answers within five seconds, if need be with a page that says what to check."""

    def get_route_handler(self) -> Handler:
        """The route's handler, with its errors explained."""
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
    """A page from ``templates/``, under a strict Content-Security-Policy."""
    root = find_root()
    shared = {
        "project": project_info().name if root else get_settings().queue_name,
        "path": request.url.path,
        "query": request.url.query,
        "may_lock": COOKIE in request.cookies,
        "said": SAID.get(request.query_params.get("said", "")),
        "now": datetime.now(UTC),
        "start_worker": worker_command(get_settings().environment),
    }
    template = _templates().get_template(name)
    return HTMLResponse(template.render({**shared, **values}), status, HEADERS)


def draw(name: str, **values: Any) -> str:
    """A piece of a page from ``templates/``."""
    return _templates().get_template(name).render(values)


def back_to(path: str, said: str = "") -> RedirectResponse:
    """Go on to a page after an action; ``said`` is a key of what it then says."""
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
    # What htmx asks for is a part of a page that is open: it gets the same page, and shows it.
    return page(request, "problem.html", status, code=status, message=str(error))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=ChoiceLoader(
            [
                FileSystemLoader(FOLDER / "templates"),
                PrefixLoader({"vibetuner": FileSystemLoader(OURS)}),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(ms=_ms, ago=_ago, secs=lambda span: _ms(span.total_seconds() * 1000))
    environment.globals.update(home=HOME, htmx_scripts=htmx_scripts, bars=bars, lines=lines)
    return environment


def _ms(value: float | None) -> str:
    """A span of time, short.

    >>> _ms(None), _ms(12.3), _ms(1500), _ms(90_000), _ms(9_000_000)
    ('-', '12 ms', '1.5 s', '1.5 min', '2.5 h')
    """
    if value is None:
        return "-"
    for limit, unit, name in ((1000, 1, "ms"), (60_000, 1000, "s"), (3_600_000, 60_000, "min")):
        if value < limit:
            return f"{value / unit:.0f} {name}" if unit == 1 else f"{value / unit:.1f} {name}"
    return f"{value / 3_600_000:.1f} h"


def _ago(at: datetime, now: datetime) -> str:
    """How far a moment is from now.

    >>> at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    >>> _ago(at, at.replace(minute=3)), _ago(at.replace(hour=15), at)
    ('3.0 min ago', 'in 3.0 h')
    """
    seconds = (now - at).total_seconds()
    if abs(seconds) < 2:
        return "now"
    return f"{_ms(seconds * 1000)} ago" if seconds > 0 else f"in {_ms(-seconds * 1000)}"
