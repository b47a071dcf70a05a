"""Fixtures of the runtime's tests: a project as the current folder, settings, and real servers."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from tests.processes import OURS
from tests.projects import write_project, write_shop
from tests.waiting import eventually
from vibetuner import config
from vibetuner.config import Settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.frontend.templates import get_templates
from vibetuner.loader import load_project
from vibetuner.project import using_data_dir
from vibetuner.tasks.worker import TaskWorker, get_worker, using_worker
from vibetuner.testing import name_database

Running = Callable[[TaskWorker], AbstractAsyncContextManager[TaskWorker]]

CACHES = (config._load_settings, load_project, get_templates)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reset the state to that of a new process: no settings read, no project imported."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    path, modules, tasks = list(sys.path), set(sys.modules), set(get_worker().registry)
    _forget()
    yield
    sys.path[:] = path
    for name in set(get_worker().registry) - tasks:
        del get_worker().registry[name]
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == "shop":
            del sys.modules[name]
    _forget()


def _forget() -> None:
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def stand_in(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a project and change into its folder: ``stand_in(files, tune=...)``."""

    def go(*arguments: object, **options: object) -> Path:
        root = write_project(tmp_path / "project", *arguments, **options)
        monkeypatch.chdir(root)
        return root

    return go


@pytest.fixture
def settings(servers: Lease, tmp_path: Path) -> Iterator[Settings]:
    """Use real servers with the test's own keys, worker, database and data folder.

    The process's worker keeps its queue name, so without a worker of its own, a test would see the
    tasks that the previous one left in the queue.
    """
    name = f"test-{uuid4().hex[:12]}"
    own = Settings(
        environment="test",
        redis_url=servers.urls["redis"],
        redis_key_prefix=name,
        mongodb_url=name_database(servers.urls["mongodb"], name),
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'test.db'}",
        secret_key="a key that the tests share, and nobody else",
    )
    with using_data_dir(tmp_path / ".vibetuner"), using_settings(own):
        with using_worker(TaskWorker(own)):
            yield own


@pytest.fixture
def worker(stand_in: Callable[..., Path], settings: Settings) -> TaskWorker:
    """Return a worker of the test's own, in a project without declarations."""
    stand_in()
    return TaskWorker(settings)


@pytest.fixture
def environment(servers: Lease) -> dict[str, str]:
    """Return the variables of a process that uses the servers and a queue of the test's own."""
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"test-{uuid4().hex[:8]}",
        "SECRET_KEY": "Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
        "ENVIRONMENT": "test",
    }


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Write a project with tasks, routes and an event stream."""
    return write_shop(tmp_path / "shop")


@pytest.fixture
async def refused_by_sqlite() -> AsyncIterator[None]:
    """Wait for aiosqlite's thread to end before the test's loop is closed."""
    yield
    name = "_connection_worker_thread"
    await eventually(lambda: not any(name in thread.name for thread in threading.enumerate()))


@asynccontextmanager
async def _running(worker: TaskWorker) -> AsyncIterator[TaskWorker]:
    async with anyio.create_task_group() as group:
        await group.start(worker.run_async)
        yield worker
        worker.stop()


@pytest.fixture
def running() -> Running:
    """Run a worker beside the block: ``async with running(worker):``."""
    return _running
