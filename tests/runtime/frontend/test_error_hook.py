"""``VibetunerApp(on_error=...)`` is called for requests that fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.runtime.frontend.test_app import NOTHING, visiting
from tests.waiting import eventually
from vibetuner.config import using_settings
from vibetuner.frontend.app import create_app

FAILING = """
    from fastapi import APIRouter, HTTPException, Request

    from vibetuner import VibetunerApp
    from vibetuner.errors import ErrorContext, ServiceUnavailable

    reported = []
    router = APIRouter(prefix="/orders")


    @router.get("/fine")
    async def fine() -> str:
        return "fine"


    @router.post("/{order_id}")
    async def order(order_id: str) -> None:
        raise ValueError(f"no order {order_id}")


    @router.get("/away")
    async def away() -> None:
        raise ServiceUnavailable("The bank does not answer")


    @router.get("/gone")
    async def gone() -> None:
        raise HTTPException(404)


    @router.post("/hooks/raw")
    async def hook(request: Request) -> int:
        return len(await request.body())


    async def on_error(error: BaseException, about: ErrorContext) -> None:
        reported.append((repr(error), about))
        if about.name.endswith("/away"):
            raise SystemExit(3)


    app = VibetunerApp(on_error=on_error, routes=[router])
"""


async def test_what_a_route_raises_is_reported(
    stand_in: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    """on_error gets each error with its route and request, and may fail itself.

    A status that the route chose is no error.
    """
    stand_in(tune=FAILING)
    with using_settings(NOTHING):
        async with visiting(create_app(), raising=False) as client:
            assert (await client.get("/orders/fine")).status_code == 200
            assert (await client.get("/orders/gone")).status_code == 404
            assert (await client.post("/orders/A-17?by=phone")).status_code == 500
            assert (await client.get("/orders/away")).status_code == 503
            reported = sys.modules["shop.tune"].reported
            await eventually(lambda: len(reported) == 2)
            assert (await client.get("/orders/fine")).status_code == 200
    (error, order), (outage, away) = reported
    assert (error, order.name) == ("ValueError('no order A-17')", "POST /orders/{order_id}")
    assert (order.task_id, order.tries, order.is_final) == ("", 0, True)
    assert order.request.query_params["by"] == "phone"
    assert (outage, away.name) == (
        "ServiceUnavailable('The bank does not answer')",
        "GET /orders/away",
    )
    assert "on_error for GET /orders/away failed" in caplog.text


async def test_a_client_that_leaves_is_not_reported(
    stand_in: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    """A route that reads a body itself has no fault if the client leaves before all has come."""
    stand_in(tune=FAILING)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/orders/hooks/raw",
        "query_string": b"",
        "headers": [(b"content-length", b"100")],
    }
    arriving = iter(
        [
            {"type": "http.request", "body": b"begun", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(arriving)

    async def send(message: Any) -> None:
        sent.append(message)

    with using_settings(NOTHING):
        app = create_app()
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert (sys.modules["shop.tune"].reported, caplog.messages) == ([], [])
