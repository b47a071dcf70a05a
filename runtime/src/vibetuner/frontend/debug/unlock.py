"""``/_unlock-debug`` and ``/_lock-debug``: how a person comes through the gate, and leaves."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from vibetuner.config import Settings, get_settings
from vibetuner.frontend.debug.gate import COOKIE, NEVER_KEPT, is_open
from vibetuner.frontend.debug.guesses import Guesses, TooManyWaiting
from vibetuner.frontend.debug.revoked import get_revoked
from vibetuner.frontend.debug.tickets import LIFETIME_SECONDS, issue, read, token_matches

__all__ = ["make_router"]

HOME = "/debug/tasks"
LEFT = "/"

HEADERS = {
    **NEVER_KEPT,
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
}
ON_ITS_WAY = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Unlocked</title>'
    f'<meta http-equiv="refresh" content="0; url={HOME}">'
    f'<p>Unlocked. <a href="{HOME}">Go on to the tasks</a></p></html>'
)


def make_router(guesses: Guesses | None = None) -> APIRouter:
    """The two routes; ``guesses`` remembers who has guessed wrongly."""
    router, remembered = APIRouter(include_in_schema=False), guesses or Guesses()

    @router.get("/_unlock-debug")
    async def unlock(request: Request, token: str = "") -> Response:
        """Give a ticket for the right token; anything else is a 404 that took a while."""
        settings = get_settings()
        address = request.client.host if request.client else "unknown"
        try:
            async with remembered.turn(address):
                if is_open(settings) or token_matches(settings, token):
                    remembered.succeeded(address)
                    return _welcome(request, settings)
                await remembered.failed(address)
        except TooManyWaiting:
            pass
        raise HTTPException(404, headers=NEVER_KEPT)

    @router.get("/_lock-debug")
    async def lock(request: Request) -> Response:
        """Take the ticket back, and every copy of it."""
        settings = get_settings()
        if ticket := read(settings, request.cookies.get(COOKIE, "")):
            await get_revoked().add(ticket)
        response = RedirectResponse(HOME if is_open(settings) else LEFT, 303, HEADERS)
        response.delete_cookie(COOKIE, path="/", secure=_secure(settings), httponly=True)
        return response

    return router


def _welcome(request: Request, settings: Settings) -> Response:
    response: Response = RedirectResponse(HOME, 303, HEADERS)
    if request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        # After a click in a chat or a mail, a redirect would not carry a cookie that is Strict;
        # a page of ours that goes on by itself does.
        response = HTMLResponse(ON_ITS_WAY, headers=HEADERS)
    if not is_open(settings):
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
