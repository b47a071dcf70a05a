"""The embedded MongoDB answers as MongoDB's manual says, or refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.runtime.embedded.mongo_operations import OPERATIONS, Operation, Refused, answer
from vibetuner.embedded import Lease

IDS = [operation.name for operation in OPERATIONS]


@pytest.fixture(scope="module")
def database(servers: Lease) -> Iterator[Database[Any]]:
    """Yield a database on the embedded server, through the client that a project uses."""
    name = f"operations-{uuid4().hex[:8]}"
    with MongoClient[Any](
        servers.urls["mongodb"], uuidRepresentation="standard", tz_aware=True
    ) as client:
        yield client[name]
        client.drop_database(name)


@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_an_operation_answers_as_mongodb_does(database: Database[Any], operation: Operation):
    """The embedded server answers each operation as MongoDB does, or refuses it."""
    given = answer(operation, database[f"c{IDS.index(operation.name)}"])
    if operation.name.startswith("not embedded"):
        assert isinstance(given, Refused)
    else:
        assert (given, type(given)) == (operation.expected, type(operation.expected))


def test_no_operation_is_counted_twice():
    """Each operation has a name of its own, as the documentation states their number."""
    assert len(set(IDS)) == len(IDS) >= 260
