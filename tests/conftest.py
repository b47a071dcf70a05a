"""Real servers for every test: one Valkey and one document server a session, on free ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vibetuner.embedded import Lease, join

# Read by others, or run as a project of its own; not for pytest's search for doctests.
collect_ignore = ["runtime/tasks/typed_tasks.py", "tour/project"]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lease]:
    """A Valkey and a MongoDB-protocol server with data in a temporary folder."""
    with join(tmp_path_factory.mktemp("servers"), ["redis", "mongodb"], command="pytest") as lease:
        yield lease
