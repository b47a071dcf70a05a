"""Input that JSON can't represent is refused like any other wrong input."""

from __future__ import annotations

import json

import pytest
from httpx2 import ASGITransport, AsyncClient

from vibetuner.frontend.app import create_app

TUNE = """
    from fastapi import APIRouter
    from pydantic import BaseModel

    from vibetuner import VibetunerApp

    router = APIRouter()


    class Order(BaseModel):
        number: int
        notes: dict[int, int] = {}


    @router.post("/orders")
    async def order(wanted: Order) -> int:
        return wanted.number


    app = VibetunerApp(routes=[router])
"""
DEEP = "[" * 400 + "]" * 400


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", b"\x80\x04\x95 no text"),
        ("application/json", b'{"number": NaN}'),
        ("application/json", b'{"number": "\\ud800"}'),
        ("application/json", b'{"number": 1, "notes": {"\\ud800": 1}}'),
        ("application/json", f'{{"number": {DEEP}}}'.encode()),
    ],
)
async def test_the_422_names_the_field_and_the_reason(
    stand_in, settings, content_type: str, body: bytes
):
    """A body that JSON can't represent gets a 422 with the error's type, place and message.

    FastAPI alone would repeat the value in its response, and fail to encode it.
    """
    stand_in(tune=TUNE)
    app = create_app()
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.post("/orders", content=body, headers={"Content-Type": content_type})

    assert answer.status_code == 422, answer.text
    assert {"type", "loc", "msg"} <= json.loads(answer.text)["detail"][0].keys()
