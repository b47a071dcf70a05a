"""``/_unlock-debug`` and ``/_lock-debug``: get a ticket with the token, and revoke it."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse

from vibetuner.config import Settings, get_settings
from vibetuner.frontend.debug.gate import COOKIE, FOREIGN, NEVER_KEPT, is_open, is_own_origin
from vibetuner.frontend.debug.tickets import (
    LIFETIME_SECONDS,
    get_revoked,
    issue,
    read,
    token_matches,
)
from vibetuner.logs import log_sparingly

logger = logging.getLogger(__name__)

HOME = "/debug/tasks"
LEFT = "/"
# A token that production accepts is too long to be guessed at any speed.
PAUSE_SECONDS = 0.5
MOST_LINES = 10

HEADERS = {
    **NEVER_KEPT,
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
}
PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><title>{}</title>{}</html>'
ON_ITS_WAY = PAGE.format(
    "Unlocked",
    f'<meta http-equiv="refresh" content="0; url={HOME}">'
    f'<p>Unlocked. <a href="{HOME}">Go on to the tasks</a></p>',
)
ASK = PAGE.format(
    "Unlock",
    '<meta name="viewport" content="width=device-width"><h1>Unlock</h1><form method="post">'
    '<label>Token <input name="token" type="password" required autofocus '
    'autocomplete="current-password"></label> <button>Unlock</button></form>',
)


def make_router() -> APIRouter:
    """Return the routes that issue and revoke a ticket."""
    router = APIRouter(include_in_schema=False)
    log_sparingly(logger, MOST_LINES)

    @router.get("/_unlock-debug")
    async def ask(request: Request, token: str = "") -> Response:
        """Ask for the token; a token in the URL is accepted as well."""
        settings = get_settings()
        if token or is_open(settings, request):
            return await _unlock(request, settings, token)
        if settings.debug_access_token is None:
            raise HTTPException(404, headers=NEVER_KEPT)
        # Not no-referrer: with it, a browser's form would send the origin "null".
        return HTMLResponse(ASK, headers={**HEADERS, "Referrer-Policy": "same-origin"})

    @router.post("/_unlock-debug")
    async def unlock(request: Request, token: Annotated[str, Form()] = "") -> Response:
        """Issue a ticket for the right token; answer 404, after a pause, to any other."""
        return await _unlock(request, get_settings(), token)

    @router.post("/_lock-debug")
    async def lock(request: Request) -> Response:
        """Revoke the ticket, and with it every copy."""
        settings = get_settings()
        if not is_own_origin(request):
            return PlainTextResponse(FOREIGN, 403, NEVER_KEPT)
        if ticket := read(settings, request.cookies.get(COOKIE, "")):
            await get_revoked().add(ticket)
        response = RedirectResponse(HOME if is_open(settings, request) else LEFT, 303, HEADERS)
        response.delete_cookie(COOKIE, path="/", secure=_secure(settings), httponly=True)
        return response

    return router


async def _unlock(request: Request, settings: Settings, token: str) -> Response:
    if is_open(settings, request) or token_matches(settings, token):
        return _welcome(request, settings)
    address = request.client.host if request.client else "an unknown address"
    logger.warning("refused a token for /debug from %s", address)
    await asyncio.sleep(PAUSE_SECONDS)
    raise HTTPException(404, headers=NEVER_KEPT)


def _welcome(request: Request, settings: Settings) -> Response:
    response: Response = RedirectResponse(HOME, 303, HEADERS)
    if request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        # After a click in a chat or mail, a redirect would not carry a Strict cookie; a page of
        # ours that forwards the browser does.
        response = HTMLResponse(ON_ITS_WAY, headers=HEADERS)
    if not is_open(settings, request):
        response.set_cookie(
            COOKIE,
            issue(settings),
            max_age=LIFETIME_SECONDS,
            path="/",
            httponly=True,
            samesite="strict",
            secure=_secure(settings),
        )
    return response


def _secure(settings: Settings) -> bool:
    return settings.environment != "development"
