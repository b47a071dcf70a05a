"""The dashboard as an app of its own, for a worker without a web app."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vibetuner.config import get_settings
from vibetuner.errors import ServiceUnavailable, VibetunerError
from vibetuner.frontend.app import assets
from vibetuner.frontend.debug import unlock
from vibetuner.frontend.debug.dashboard import make_dashboard
from vibetuner.frontend.debug.gate import Gate, is_local, is_loopback, is_open
from vibetuner.frontend.templates import ASSETS_PATH
from vibetuner.project import project_info
from vibetuner.sse.history import History
from vibetuner.sse.hub import get_hub
from vibetuner.sse.relay import open_relay
from vibetuner.tasks.dead_letters import open_dead_letters
from vibetuner.tasks.inspect.queue import answering, this_queue
from vibetuner.tasks.worker import open_queue

AGAIN_SECONDS = 1.0
# Shorter than a page's limit, so that the page can show the reason.
OPEN_SECONDS = 3.0
COUNTERS = ("completed", "failed", "retried", "aborted")


@dataclass(slots=True)
class Attention:
    """The number of open requests, and the time at which the last one ended."""

    looking: int = 0
    last: float = field(default_factory=time.monotonic)

    @property
    def idle_seconds(self) -> float:
        """Return the seconds since the last request; 0 while one is open."""
        return 0.0 if self.looking else time.monotonic() - self.last

    def around(self, app: ASGIApp) -> ASGIApp:
        """Wrap ``app`` to count its open requests."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            self.looking += 1
            try:
                await app(scope, receive, send)
            finally:
                self.looking -= 1
                self.last = time.monotonic()

        return serve


class _Door:
    """Opens the queue and the letters, and retries until it succeeds."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._problem = "The queue is not open yet. Try again in a moment"

    async def keep_letters(self) -> None:
        await self._opened.wait()
        await self.keep(open_dead_letters)

    async def keep(self, opener: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        while True:
            try:
                async with opener():
                    self._opened.set()
                    await asyncio.Event().wait()
            except (VibetunerError, OSError) as error:
                self._problem = str(error)
            await asyncio.sleep(AGAIN_SECONDS)

    async def passed(self, request: Request) -> None:
        """Wait a moment for the queue; raise ServiceUnavailable if it does not open."""
        if request.url.path.endswith(("/debug.css", "/debug.js")):
            return
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._opened.wait()
        except TimeoutError:
            raise ServiceUnavailable(self._problem) from None


@asynccontextmanager
async def _open_queue_and_relay() -> AsyncIterator[None]:
    async with open_queue() as worker, open_relay(History(worker.redis, get_settings()), get_hub()):
        yield


def create_monitor(
    host: str = "127.0.0.1", worker_id: str = "", attention: Attention | None = None
) -> FastAPI:
    """Return an app with the dashboard, and with the worker's state as JSON at ``/health``.

    Args:
        host: the address that it listens on; unless it is a loopback address, the gate is closed
            like that of the web app.
        worker_id: the worker that ``/health`` reports on.
        attention: updated at each request.
    """
    is_private, door = is_loopback(host), _Door()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        keeping = (door.keep(_open_queue_and_relay), door.keep_letters())
        keepers = [asyncio.create_task(one) for one in keeping]
        try:
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    def free(request: Request) -> bool:
        settings = get_settings()
        return is_local(settings, request) if is_private else is_open(settings, request)

    app = FastAPI(
        title="worker monitor",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        max_body_size=get_settings().max_body,
    )
    app.add_middleware(Gate, settings=get_settings, free=free)
    app.add_middleware((attention or Attention()).around)
    app.include_router(unlock.make_router())
    app.include_router(make_dashboard(), dependencies=[Depends(door.passed)])
    app.mount(ASSETS_PATH, assets(), name="vibetuner")

    @app.get("/")
    async def home() -> RedirectResponse:
        return RedirectResponse("/debug/tasks", 303)

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        # A page of another site can point its own name at this machine, and read the response.
        tells = is_private and free(request)
        return await _tell(worker_id) if tells else {"status": "ok"}

    return app


async def _tell(worker_id: str) -> dict[str, Any]:
    told: dict[str, Any] = {"status": "ok", "project": project_info().slug, "worker": worker_id}
    with suppress(VibetunerError):
        async with answering(2.0):
            views = await this_queue().workers()
        beat = next((view.beat for view in views if view.beat.id == worker_id), None)
        if beat is not None:
            told |= {
                "queue": get_settings().queue_name,
                "concurrency": beat.concurrency,
                "running": beat.running,
                **{name: beat.counters.get(name, 0) for name in COUNTERS},
                "tasks": list(beat.tasks),
            }
    return told
