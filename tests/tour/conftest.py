"""The tour's environment: a project, real servers, a worker here, and real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.processes import Command, Site, free_port, vibetuner, wait_for_http
from vibetuner.config import Settings, get_settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.project import using_data_dir
from vibetuner.tasks.worker import TaskWorker, get_worker
from vibetuner.testing import held_open, name_database

PROJECT = Path(__file__).parent / "project"


@pytest.fixture(scope="session")
def environment(servers: Lease) -> dict[str, str]:
    """Return the variables of the tour's `.env`."""
    return {
        "REDIS_URL": servers.urls["redis"],
        "MONGODB_URL": name_database(servers.urls["mongodb"], "tour"),
        "SECRET_KEY": "a key that the tour share, and nobody else",
        "ENVIRONMENT": "test",
    }


@pytest.fixture(autouse=True)
def settings(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Use the tour's settings, with the project as the current folder."""
    monkeypatch.chdir(PROJECT)
    values = {name.lower(): value for name, value in environment.items()}
    with using_data_dir(tmp_path / ".vibetuner"), using_settings(Settings(**values)):
        yield get_settings()


@pytest.fixture
async def worker() -> AsyncIterator[TaskWorker]:
    """Run the project's worker in this process."""
    async with held_open(running(get_worker())) as worker:
        yield worker


@asynccontextmanager
async def running(worker: TaskWorker) -> AsyncIterator[TaskWorker]:
    """Run ``worker`` beside the block."""
    async with anyio.create_task_group() as group:
        await group.start(worker.run_async)
        yield worker
        worker.stop()


@pytest.fixture(scope="session")
def worker_process(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Command]:
    """Run `vibetuner run dev worker` in a process of its own."""
    log = tmp_path_factory.mktemp("worker") / "log"
    # A queue of its own: the workers of other tests don't know these tasks' project.
    variables = {**environment, "REDIS_KEY_PREFIX": "tour-processes"}
    with vibetuner(
        "run", "dev", "worker", folder=PROJECT, log=log, environment=variables
    ) as command:
        command.wait_for("worker ready")
        yield command


@pytest.fixture(scope="session")
def site(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run `vibetuner run dev frontend` in a process of its own."""
    port, log = free_port(), tmp_path_factory.mktemp("web") / "log"
    variables = {**environment, "REDIS_KEY_PREFIX": "tour-processes"}
    with vibetuner(
        "run", "dev", "frontend", "--port", str(port), folder=PROJECT, log=log,
        environment=variables,
    ) as command:  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        wait_for_http(f"{url}/health")
        yield Site(command, url)
