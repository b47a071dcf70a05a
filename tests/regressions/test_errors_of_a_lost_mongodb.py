"""Every public function that uses MongoDB raises its documented error when MongoDB is lost."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.mongo import running_mongo
from tests.processes import frozen
from tests.runtime.frontend.test_app import visiting
from tests.runtime.tasks.letters.conftest import make_letter
from vibetuner.cli.checks.services import check_services
from vibetuner.config import Settings, get_settings, using_settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.frontend.app import create_app
from vibetuner.frontend.lifespan import base_lifespan as web_lifespan
from vibetuner.project import project_info
from vibetuner.redis import ANSWER_SECONDS
from vibetuner.resources import mongo
from vibetuner.resources.slots import mongo_database
from vibetuner.state import REQUEST_SECONDS, for_requests
from vibetuner.tasks import dead_letters
from vibetuner.tasks.lifespan import base_lifespan as worker_lifespan
from vibetuner.tasks.worker import TaskWorker, open_queue, using_worker

SLACK_SECONDS = 40
WHOLE_SECONDS = 120
LIMITS = {"worker": ANSWER_SECONDS, "web": REQUEST_SECONDS}


async def entered(manager: AbstractAsyncContextManager[Any]) -> None:
    """Open and close a context manager."""
    async with manager:
        pass


async def awaited(call: Any) -> None:
    """Await a call, which enqueues it."""
    await call


def calls(noop: Any, sessions: list[Any]) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return a call of each function, by its name."""
    return {
        "list letters": dead_letters.list_letters,
        "count letters": lambda: dead_letters.count(since=datetime.now(UTC)),
        "get a letter": lambda: dead_letters.get("x"),
        "get by a beginning": lambda: dead_letters.get("12345678"),
        "retry a letter": lambda: dead_letters.retry("x"),
        "discard a letter": lambda: dead_letters.discard("x"),
        "discard a letter at hand": lambda: dead_letters.discard(make_letter("at hand")),
        "within": lambda: awaited(noop.enqueue().within(sessions[0])),
        "within once": lambda: awaited(noop.enqueue().once("key").within(sessions[1])),
        "check": lambda: mongo.check(get_settings()),
        "open the web process": lambda: entered(web_lifespan()),
        "open a worker": lambda: entered(worker_lifespan()),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(
    ("loss", "place"), [("killed", "worker"), ("frozen", "worker"), ("frozen", "web")]
)
async def test_a_lost_mongodb_raises_service_unavailable(
    tmp_path: Path, stand_in: Callable[..., Path], settings: Settings, loss: str, place: str
):
    """Every function raises ServiceUnavailable in time if MongoDB is killed or frozen.

    PyMongo's own errors don't reach the caller, and closing the connections is limited, too.
    """
    stand_in()
    async with asyncio.timeout(WHOLE_SECONDS):  # it once waited for ever for a frozen server
        await lose(tmp_path, settings, loss, place)
    gc.collect()  # the sockets that a frozen server did not let PyMongo close


async def lose(tmp_path: Path, settings: Settings, loss: str, place: str) -> None:
    """Call every function while the server is lost, and assert the errors."""
    with running_mongo(tmp_path / "mongo") as (url, server), ExitStack() as until_the_end:
        own = settings.model_copy(update={"mongodb_url": url, "database_url": None})
        worker = TaskWorker(own)

        @worker.task(name="noop")
        async def noop() -> None: ...

        with using_settings(own), using_worker(worker):
            async with AsyncExitStack() as process:
                client = None
                if place == "web":
                    client = await process.enter_async_context(visiting(create_app()))
                else:
                    await process.enter_async_context(worker_lifespan())
                    await process.enter_async_context(open_queue())
                sessions = [mongo_database.get().client.start_session() for _ in range(2)]
                for session in sessions:
                    await session.start_transaction()
                asked = calls(noop, sessions) | {
                    "doctor": lambda: check_services(own, project_info()),
                    "ready": lambda: client.get("/health/ready") if client else asyncio.sleep(0),
                }
                if loss == "killed":
                    server.kill()
                with (
                    frozen(server.pid) if loss == "frozen" else nullcontext(),
                    for_requests() if place == "web" else nullcontext(),
                ):
                    async with asyncio.timeout(LIMITS[place] + SLACK_SECONDS):
                        found = await asyncio.gather(
                            *(ask() for ask in asked.values()), return_exceptions=True
                        )
                await asyncio.gather(*(session.end_session() for session in sessions))
                if loss == "frozen":
                    until_the_end.enter_context(frozen(server.pid))
                began = time.monotonic()
            assert time.monotonic() - began < mongo.CLOSE_SECONDS + SLACK_SECONDS
            with pytest.raises(ServiceUnavailable, match="MongoDB at"):
                await entered(dead_letters.open_dead_letters())
    errors: dict[str, Any] = dict(zip(asked, found, strict=True))
    findings, ready = errors.pop("doctor"), errors.pop("ready")
    assert [one.level for one in findings if one.area == "MongoDB"] == ["error"]
    assert ready is None or (ready.status_code, "MongoDB" in ready.text) == (503, True)
    wrong = {name: one for name, one in errors.items() if not isinstance(one, ServiceUnavailable)}
    assert not wrong
    assert not [error for error in errors.values() if "\n" in str(error)]
    assert errors["within"].has_error_label("TransientTransactionError")
