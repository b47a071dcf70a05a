"""A project with event streams, and web processes that serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.processes import Site, free_port, vibetuner, wait_for_http
from tests.projects import write_project
from vibetuner.embedded import Lease

ROUTES = """
    import asyncio
    import os

    from fastapi import APIRouter, Body, Depends, HTTPException, Request

    from vibetuner.redis import redis_client
    from vibetuner.sse import broadcast, sse_endpoint
    from vibetuner.sse.hub import get_hub

    router = APIRouter()


    def visitor(request: Request) -> str:
        return request.query_params.get("as", "ann")


    @sse_endpoint("/events/{channel:path}", router=router)
    async def events(channel: str, visitor: str = Depends(visitor)) -> str:
        '''What is sent on a channel.'''
        if visitor == "eve":
            raise HTTPException(403, "not yours")
        return channel


    @sse_endpoint("/sync/{channel}", router=router)
    def events_sync(channel: str) -> str:
        return channel


    failures: list[Exception] = []


    @router.post("/fail", status_code=204)
    async def fail() -> None:
        failures.append(OSError("the database is away"))


    async def count(channel: str) -> tuple[str, int]:
        if failures:
            raise failures.pop()
        return "state", len(channel)


    @sse_endpoint("/counted/{channel}", router=router, first=count)
    async def counted(channel: str) -> str:
        return channel


    @router.post("/send/{channel:path}")
    async def send(channel: str, data: list[str] = Body()) -> list[str]:
        return [await broadcast(channel, "n", text) for text in data]


    @router.get("/inside")
    async def inside() -> dict[str, int]:
        hub = get_hub()
        counts = {
            "pid": os.getpid(),
            "subscribers": len(hub),
            "feeds": len(hub._feeds),
            "tasks": len(asyncio.all_tasks()),
            "handles": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        }
        if client := redis_client.peek():
            topic = f"{os.environ['REDIS_KEY_PREFIX']}:sse"
            counts["subscriptions"] = (await client.pubsub_numsub(topic))[topic]
        return counts
"""
TUNE = """
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(routes=[router], openapi=True)
"""

Serve = Callable[..., AbstractContextManager[Site]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the project to disk."""
    return write_project(tmp_path_factory.mktemp("shop"), {"routes.py": ROUTES}, tune=TUNE)


@pytest.fixture(scope="module")
def serve(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Return a function that runs a web process: ``with serve(port=…, REDIS_URL=…) as site:``."""

    @contextmanager
    def run(*, port: int | None = None, **environment: str) -> Iterator[Site]:
        port = port or free_port()
        log = tmp_path_factory.mktemp("web") / "log"
        variables = {
            "ENVIRONMENT": "test",
            "SECRET_KEY": "a key that the tests share, and nobody else",
            "MAX_BODY": "100MB",
            **environment,
        }
        with vibetuner(
            "run", "prod", "frontend", "--port", str(port),
            folder=shop, log=log, environment=variables,
        ) as command:  # fmt: skip
            wait_for_http(f"http://127.0.0.1:{port}/health", seconds=90)
            yield Site(command, f"http://127.0.0.1:{port}")

    return run


@pytest.fixture(scope="module")
def environment(servers: Lease) -> dict[str, str]:
    """Return the variables of a Redis, with keys of the module's own."""
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"test-{uuid4().hex[:12]}",
        "SSE_HISTORY": "300",
        "SSE_HISTORY_BYTES": "10000000",
    }


@pytest.fixture(scope="module")
def two_sites(serve: Serve, environment: dict[str, str]) -> Iterator[tuple[Site, Site]]:
    """Run two web processes, as behind a balancer."""
    with serve(**environment) as one, serve(**environment) as two:
        yield one, two
