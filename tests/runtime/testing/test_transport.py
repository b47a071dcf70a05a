"""Event streams of the app, read by a test in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient

from tests.waiting import eventually
from vibetuner.sse import broadcast, sse_endpoint
from vibetuner.sse.hub import get_hub
from vibetuner.testing import ManualWorker

pytestmark = pytest.mark.usefixtures("in_a_project")

router = APIRouter()


async def current(channel: str) -> tuple[str, str]:
    if channel == "broken":
        raise ZeroDivisionError
    return "state", "now"


@sse_endpoint("/events/{channel}", router=router, first=current)
async def events(channel: str) -> str:
    return channel


@router.post("/say")
async def say(text: str) -> str:
    return await broadcast("news", "said", text)


@router.get("/fail")
async def fail() -> None:
    raise ZeroDivisionError


@pytest.fixture
async def client(vibetuner_app: FastAPI, vibetuner_client: AsyncClient) -> AsyncClient:
    """Return the client of an app with an event stream."""
    vibetuner_app.include_router(router)
    return vibetuner_client


async def lines(client: AsyncClient, channel: str) -> AsyncIterator[str]:
    """Yield the fields `event` and `data` of a stream's events."""
    async with client.stream("GET", f"/events/{channel}") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith(("event:", "data:")):
                yield line


async def test_events_arrive_while_the_stream_is_open(client: AsyncClient):
    """A test reads events as a browser does, and leaves."""
    stream = lines(client, "news")
    async with asyncio.timeout(60):
        assert [await anext(stream), await anext(stream)] == ["event: state", "data: now"]
        answer = await client.post("/say", params={"text": "hello"})
        assert answer.status_code == 200
        assert [await anext(stream), await anext(stream)] == ["event: said", "data: hello"]
        await stream.aclose()
    await eventually(lambda: not len(get_hub()))


async def test_two_streams_may_be_open(vibetuner_worker: ManualWorker, client: AsyncClient):
    """Several streams can be open at once, and each gets the event, here by way of Redis."""
    streams = [lines(client, "news") for _ in range(2)]
    for stream in streams:
        assert [await anext(stream), await anext(stream)] == ["event: state", "data: now"]
    await client.post("/say", params={"text": "to all"})
    for stream in streams:
        assert [await anext(stream), await anext(stream)] == ["event: said", "data: to all"]
        await stream.aclose()


@pytest.mark.parametrize("path", ["/fail", "/events/broken"])
async def test_an_error_of_the_app_is_raised_in_the_test(client: AsyncClient, path: str):
    """An error of a route, or of a stream that has begun, fails the test."""
    with pytest.raises(ZeroDivisionError):
        await client.get(path)


async def test_a_wait_that_is_given_up_ends_the_stream(client: AsyncClient):
    """A whole response of a stream never comes; a test that gives up leaves no stream behind."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.get("/events/news")
    await eventually(lambda: not len(get_hub()))
