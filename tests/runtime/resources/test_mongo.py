"""MongoDB, and Beanie's documents."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from beanie import Document, Indexed
from pydantic import ValidationError
from pymongo.errors import AutoReconnect, DuplicateKeyError, ServerSelectionTimeoutError

from tests.mongo import running_mongo
from tests.processes import frozen
from tests.waiting import eventually
from vibetuner import VibetunerApp
from vibetuner.config import Settings
from vibetuner.embedded import Lease
from vibetuner.errors import ServiceUnavailable
from vibetuner.models import UserModel
from vibetuner.resources.mongo import (
    CONNECT_MS,
    check,
    open_database,
    open_mongo,
    unreachable,
)
from vibetuner.resources.slots import mongo_database
from vibetuner.resources.steps import PATIENCE

APP = VibetunerApp()


async def test_a_user_is_found_by_id_and_unique_by_address(settings: Settings):
    """A user is found by id; an address is stored in lower case, and a second one is refused."""
    async with open_mongo(settings, APP) as database:
        ann = await UserModel(email="Ann@Example.com", name="Ann").insert()

        found = await UserModel.get(ann.id)
        assert found is not None
        assert (found.email, found.name) == ("ann@example.com", "Ann")
        assert datetime.now(UTC) - found.created_at < timedelta(minutes=1)
        assert await database["users"].count_documents({}) == 1
        with pytest.raises(DuplicateKeyError):
            await UserModel(email="ANN@example.com").insert()


def test_a_user_without_a_real_address_is_refused():
    """A user without a valid address is refused before anything is stored."""
    with pytest.raises(ValidationError):
        UserModel.model_validate({"email": "nobody"})


async def test_the_projects_documents_get_their_indexes(settings: Settings):
    """The documents that tune.py lists get their indexes."""

    class Receipt(Document):
        number: Indexed(int, unique=True)  # type: ignore[valid-type]

    async with open_mongo(settings, VibetunerApp(models=[Receipt])):
        await Receipt(number=1).insert()
        with pytest.raises(DuplicateKeyError):
            await Receipt(number=1).insert()


@pytest.mark.parametrize(
    ("path", "prefix", "name"),
    [
        ("shop", "other", "shop"),
        ("", "corner-shop", "corner-shop"),
        ("", "shop.example:eu", "shop-example-eu"),
    ],
)
async def test_the_database_is_named_by_the_url_or_by_the_project(
    servers: Lease, path: str, prefix: str, name: str
):
    """The database has the name in the URL, or the key prefix with dots and colons replaced."""
    base, _, query = servers.urls["mongodb"].partition("?")
    settings = Settings(mongodb_url=f"{base}{path}?{query}", redis_key_prefix=prefix)

    async with open_mongo(settings, APP) as database:
        assert database.name == name
        assert mongo_database.get() is database
    assert mongo_database.peek() is None


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ann:hun/ter2@host",
        "mongodb://ann:hun@ter2@host",
        "mongodb://",
        "mongodb://h:port",
    ],
)
async def test_a_malformed_url_is_one_line(url: str):
    """A malformed URL is one line, which shows no password."""
    with pytest.raises(ServiceUnavailable, match="MongoDB at .* can't be used: ") as caught:
        await check(Settings(mongodb_url=url))
    assert "ter2" not in str(caught.value)


async def test_a_refused_password_is_one_line_everywhere(settings: Settings):
    """A refused password is the same line when the database is opened and when it is checked."""
    url = (settings.mongodb_url or "").replace("://", "://ann:wrong@")
    own = settings.model_copy(update={"mongodb_url": url})
    for act in (open_mongo(own, APP).__aenter__, lambda: check(own)):
        with pytest.raises(
            ServiceUnavailable, match=r"^MongoDB at mongodb://\S+ can't be used: "
        ) as caught:
            await act()
        assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("a:1: [Errno 111] Connect call failed ('::1', 1) (configured timeouts: …), Timeout: 5.0s",
         "a:1: [Errno 111] Connect call failed ('::1', 1)"),
        ("a:1: Name or service not known,b:1: timed out, Timeout: 5.0s, Topology Description: <…>",
         "a:1: Name or service not known"),
        ("Authentication failed., full error: {'ok': 0.0}", "Authentication failed"),
    ],
)  # fmt: skip
def test_the_reason_is_all_that_the_driver_says_of_one_server(
    settings: Settings, said: str, reason: str
):
    """An error has the driver's reason whole, without its settings and the other servers."""
    assert f" can't be used: {reason}. " in unreachable(settings, AutoReconnect(said))


@pytest.mark.process
@pytest.mark.slow
async def test_a_call_that_is_cut_off_leaves_the_client_usable(tmp_path: Path):
    """A call that is cancelled as one of its waits for a lost server ends leaves no lock held.

    On Python 3.11, all later calls waited for the lock for ever, and so did the close.
    """
    with running_mongo(tmp_path / "mongo") as (url, server):
        async with open_database(Settings(mongodb_url=url)) as database:
            server.kill()
            with suppress(AutoReconnect):
                await database.command("ping")
            asking = asyncio.create_task(database.command("ping"))
            topology = await database.client._get_topology()
            await eventually(lambda: topology._condition._waiters)
            async with topology._lock:
                await eventually(lambda: not topology._condition._waiters)
                asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            async with asyncio.timeout(60):
                with pytest.raises(ServerSelectionTimeoutError):
                    await database.command("ping")


@pytest.mark.process
async def test_a_call_that_is_cut_off_while_it_connects_leaves_no_socket_open(settings: Settings):
    """A call that is cancelled while it makes a connection leaves no socket to the collector."""
    with leaving_no_socket_open():
        for turns in range(30):
            async with open_database(settings) as database:
                calls = [asyncio.create_task(database.command("ping")) for _ in range(2)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.slow
async def test_a_handshake_of_tls_has_the_limit_of_a_connection():
    """A server that is silent in the handshake of TLS is given up after five seconds."""
    with leaving_no_socket_open(), socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mongodb://127.0.0.1:{silent.getsockname()[1]}/?tls=true"
        began = time.monotonic()
        with pytest.raises(ServiceUnavailable):
            await check(Settings(mongodb_url=url))
        took = time.monotonic() - began

    assert took < CONNECT_MS / 1000 + PATIENCE - 1


@contextmanager
def leaving_no_socket_open() -> Iterator[None]:
    """Assert that the block leaves no socket to the garbage collector."""
    gc.collect()  # what earlier tests have left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    found = [str(one.message) for one in caught]
    assert [one for one in found if "socket" in one.lower()] == []


@pytest.mark.process
@pytest.mark.slow
async def test_an_index_may_take_longer_than_a_request_waits(tmp_path: Path):
    """The limit of one call, as a web process has it, is not one of making the indexes."""

    class Slow(Document):
        @classmethod
        async def custom_init(cls) -> None:
            with frozen(server.pid):
                freed = asyncio.create_task(asyncio.sleep(4))
                making = asyncio.create_task(cls.get_pymongo_collection().create_index("name"))
                await asyncio.wait({freed, making}, return_when=asyncio.FIRST_COMPLETED)
            await making

    with running_mongo(tmp_path / "mongo") as (url, server):
        own = Settings(mongodb_url=f"{url}&timeoutMS=3000")
        async with open_mongo(own, VibetunerApp(models=[Slow])) as database:
            assert "name_1" in await database["Slow"].index_information()
