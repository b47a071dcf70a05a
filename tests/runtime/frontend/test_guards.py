"""The guards around every page of a project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from httpx2 import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from vibetuner.frontend.guards import Guards


async def change(request: Request) -> Response:
    if request.url.path == "/away":
        return Response(status_code=503)
    return HTMLResponse("changed", headers={"X-Frame-Options": "SAMEORIGIN"})


def guarded(**options: Any) -> AsyncClient:
    routes = [Route(path, change, methods=["GET", "POST"]) for path in ("/", "/away")]
    app = Guards(Starlette(routes=routes), **options)
    return AsyncClient(transport=ASGITransport(app), base_url="https://shop.example")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "https://shop.example"}, 200),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://["}, 403),
        ({"Origin": "https://shop.example.evil.example"}, 403),
        ({"Origin": "https://blog.shop.example", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_what_changes_something_comes_from_our_pages_or_from_no_page(
    headers: dict[str, str], status: int
):
    """A change needs an Origin of ours, or none, as a webhook has.

    A page of another site sends its Origin, and is refused.
    """
    async with guarded() as client:
        assert (await client.post("/", headers=headers)).status_code == status
        assert (await client.get("/", headers=headers)).status_code == 200


@pytest.mark.parametrize("trusted", [["https://Partner.example/"], ["*"]])
async def test_another_site_can_be_trusted(trusted: list[str]):
    """trusted_origins allows changes from a site by its name, or from all sites."""
    headers = {"Origin": "https://partner.example", "Sec-Fetch-Site": "cross-site"}
    async with guarded(trusted_origins=trusted) as client:
        assert (await client.post("/", headers=headers)).status_code == 200


async def test_answers_carry_headers_that_they_do_not_set_themselves():
    """A route's headers override the project's, and these the default ones.

    A refusal has the headers, too.
    """
    options = {"headers": {"referrer-policy": "no-referrer", "Content-Security-Policy": None}}
    async with guarded(**options) as client:
        answer = await client.get("/")
        refused = await client.post("/", headers={"Origin": "https://evil.example"})
    async with guarded() as client:
        default = await client.get("/")

    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-security-policy" not in answer.headers
    assert "trusted_origins=" in refused.text
    assert refused.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in default.headers["content-security-policy"]


async def test_a_503_has_the_time_to_come_back():
    """A 503 has ``Retry-After``, and other responses have none."""
    async with guarded() as client:
        assert (await client.get("/away")).headers["retry-after"] == "5"
        assert "retry-after" not in (await client.get("/")).headers


async def test_head_is_answered_like_get_without_the_body():
    """A HEAD has the status and headers of a GET, or of the route's own HEAD; a stream ends."""
    app = FastAPI(middleware=[Middleware(Guards)])
    router = APIRouter()

    @router.get("/page/{number}")
    async def page(number: int) -> dict[str, int]:
        return {"number": number}

    @router.get("/own")
    async def own() -> str:
        return "own"

    @router.head("/own")
    async def own_head() -> Response:
        return Response(headers={"X-Own": "yes"})

    @router.get("/stream")
    async def stream() -> StreamingResponse:
        async def endless() -> AsyncIterator[str]:
            while True:
                yield "more"
                await asyncio.sleep(0)

        return StreamingResponse(endless())

    @router.post("/change")
    async def change_it() -> None: ...

    app.include_router(router)
    async with AsyncClient(transport=ASGITransport(app), base_url="https://shop.example") as client:
        got = await client.get("/page/7")
        asked = await client.head("/page/7")
        statuses = {
            path: (await client.head(path)).status_code
            for path in ("/page/x", "/nowhere", "/change", "/stream", "/own")
        }
        is_own = "x-own" in (await client.head("/own")).headers

    assert (asked.status_code, asked.content, asked.headers) == (200, b"", got.headers)
    assert got.headers["content-length"] == "12"
    assert statuses == {
        "/page/x": 422,
        "/nowhere": 404,
        "/change": 405,
        "/stream": 200,
        "/own": 200,
    }
    assert is_own


async def test_a_websocket_of_another_site_is_refused():
    """A WebSocket with the Origin of another site is refused, as it brings a cookie."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    for origin in (b"https://evil.example", b"https://shop.example"):
        headers = [(b"host", b"shop.example"), (b"origin", origin)]
        await Guards(inside)({"type": "websocket", "headers": headers}, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008}, {"type": "websocket.accept"}]
