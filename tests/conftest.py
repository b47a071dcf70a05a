"""Real servers for every test: one Valkey and one document server a session, on free ports."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.postgres import running_postgres
from vibetuner.embedded import Lease, join

# Read by others, or run as a project of its own; not for pytest's search for doctests.
collect_ignore = ["runtime/tasks/typed_tasks.py", "tour/project"]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lease]:
    """A Valkey and a MongoDB-protocol server with data in a temporary folder.

    TEST_REDIS_URL names another one instead of the Valkey.
    """
    with join(tmp_path_factory.mktemp("servers"), ["redis", "mongodb"], command="pytest") as lease:
        if other := os.environ.get("TEST_REDIS_URL"):
            lease.urls["redis"] = other
        yield lease


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL database; skips where PostgreSQL is not installed."""
    with running_postgres() as url:
        yield url
