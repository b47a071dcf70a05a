"""The small connection: order of replies, loss, reconnection and login."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from coredis.exceptions import ConnectionError as Disconnected
from coredis.exceptions import ResponseError

from tests.listeners import open_proxy
from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.redis.blocking import ask
from vibetuner.redis.connection import LARGEST_SHARED, Connection
from vibetuner.redis.url import Address, parse_url

#: A script that appends its values to a list, and replies with them.
APPEND = "redis.call('rpush', KEYS[1], unpack(ARGV)) return ARGV"


@pytest.fixture
async def wire(servers: Any) -> AsyncIterator[Connection]:
    """Yield a connection to the session's server."""
    async with Connection(parse_url(servers.urls["redis"])) as wire:
        yield wire


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """Run a server with the user ``writer`` and the password ``sesame``, also on a socket."""
    options = (
        *("--unixsocket", str(tmp_path / "socket")),
        *("--user", "writer", "on", ">sesame", "~*", "&*", "+@all"),
    )
    with Valkey(tmp_path, lasting=False, options=options) as server:
        yield server


async def test_replies_come_in_the_order_of_the_calls(wire: Connection):
    """Five thousand calls in one iteration of the loop get their replies in order."""
    replies = await asyncio.gather(*(wire.call("ECHO", n) for n in range(5000)))

    assert replies == [str(n).encode() for n in range(5000)]


async def test_calls_of_one_turn_go_out_in_one_write(servers: Any):
    """The calls of one iteration of the loop are sent in one write."""
    url = servers.urls["redis"]
    reads: list[int] = []
    async with open_proxy(parse_url(url), on_read=reads.append) as port:
        async with Connection(Address(host="127.0.0.1", port=port)) as wire:
            await asyncio.gather(*(wire.call("PING") for _ in range(100)))

    assert len(reads) == 1


async def test_a_refused_command_raises_and_the_others_go_on(wire: Connection):
    """A refused command raises the server's error, and the next one gets its reply."""
    wrong, right = wire.call("NONSENSE"), wire.call("PING")

    with pytest.raises(ResponseError, match="unknown command"):
        await wrong
    assert await right == b"PONG"


async def test_a_cancelled_call_affects_no_other(wire: Connection):
    """A cancelled call's reply is dropped, and the next call gets its own."""
    first, second = wire.call("ECHO", "1"), wire.call("ECHO", "2")
    first.cancel()

    assert await second == b"2"


@pytest.mark.parametrize("way", ["tcp", "socket"])
async def test_a_user_can_log_in_and_a_database_is_selected(
    server: Valkey, tmp_path: Path, way: str
):
    """The user, password and database of a URL apply to a host as to a socket's path."""
    url = f"redis://writer:sesame@127.0.0.1:{server.port}/3"
    if way == "socket":
        url = f"unix://writer:sesame@{tmp_path}/socket?db=3"
    async with Connection(parse_url(url)) as wire:
        info = await wire.call("CLIENT", "INFO")

    assert b"db=3" in info
    assert b"user=writer" in info


async def test_a_wrong_password_is_an_error(server: Valkey):
    """A wrong password raises the server's error, and no connection stays open."""
    wire = Connection(parse_url(f"redis://writer:wrong@127.0.0.1:{server.port}"))
    with pytest.raises(ResponseError, match="WRONGPASS"):
        await wire.call("PING")

    async with Connection(parse_url(f"redis://writer:sesame@127.0.0.1:{server.port}")) as other:

        async def clients() -> int:
            return (await other.call("CLIENT", "LIST")).count(b"id=")

        await eventually(lambda: _is(1, clients))
    await wire.close()


async def test_a_lost_connection_sends_nothing_twice(server: Valkey):
    """A call that is sent, and is lost before the server reads it, is not sent again."""
    url = f"redis://writer:sesame@127.0.0.1:{server.port}"
    async with Connection(parse_url(url)) as wire, Connection(parse_url(url)) as other:
        me = await wire.call("CLIENT", "ID")
        pending = [wire.call("BLPOP", "nothing", 0), wire.call("INCR", "count")]
        await eventually(lambda: _is_blocked(other, me))
        await other.call("CLIENT", "KILL", "ID", me)
        for one in pending:
            with pytest.raises(Disconnected, match="lost"):
                await one
        assert await wire.call("PING") == b"PONG"
        assert await wire.call("GET", "count") is None


async def _is_blocked(wire: Connection, client: int) -> bool:
    line = await wire.call("CLIENT", "LIST", "ID", client)
    return b"flags=b" in line


async def _is(expected: int, ask: Callable[[], Awaitable[int]]) -> bool:
    return await ask() == expected


async def test_a_lost_server_fails_pending_calls_and_is_reconnected(server: Valkey):
    """A lost server fails the pending calls, and the next call connects again."""
    lost = asyncio.Event()
    url = f"redis://writer:sesame@127.0.0.1:{server.port}"
    wire = Connection(parse_url(url), on_loss=lost.set)
    await wire.connect()
    waiting = wire.call("BLPOP", "nothing", 0)
    await asyncio.sleep(0)  # it is sent
    server.kill()
    with pytest.raises(Disconnected, match="lost"):
        await waiting
    async with asyncio.timeout(60):
        await lost.wait()
    with pytest.raises(Disconnected, match=f"127.0.0.1:{server.port} can't be reached"):
        await wire.call("PING")

    await asyncio.to_thread(server.start)

    assert await wire.call("PING") == b"PONG"
    await wire.close()


async def test_a_silent_server_is_given_up(tmp_path: Path):
    """A silent server is given up after the timeout; a blocking command has time in addition."""
    with Valkey(tmp_path) as valkey:
        async with Connection(parse_url(valkey.url), timeout=0.5) as connection:
            assert await connection.call("BLPOP", "nothing", 2) is None
            endless = connection.call("BLPOP", "list", 0)
            await asyncio.to_thread(ask, parse_url(valkey.url), ["RPUSH", "list", "x"])
            assert await endless == [b"list", b"x"]
            with valkey.frozen():
                async with asyncio.timeout(60):
                    with pytest.raises(Disconnected, match=r"lost: no answer for \d+ s"):
                        await connection.call("PING")
            assert await connection.call("PING") == b"PONG"


async def test_calls_that_share_a_command_are_given_up_together(tmp_path: Path):
    """All callers of a shared command fail with a silent server, and with a connection's close."""
    with Valkey(tmp_path) as valkey:
        async with Connection(parse_url(valkey.url), timeout=0.5) as connection:
            with valkey.frozen():
                waiting = [connection.share(("MGET",), [f"key {n}"]) for n in range(40)]
                lost = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(one) for one in lost} == {Disconnected}
            waiting = [connection.share(("MGET",), [f"key {n}"]) for n in range(40)]
            assert await asyncio.gather(*waiting) == [[None]] * 40
            left = [connection.share(("MGET",), [f"key {n}"]) for n in range(40)]
        for one in left:
            with pytest.raises(Disconnected, match="closed|lost"):
                await one
        with pytest.raises(Disconnected, match="closed"):
            connection.share(("MGET",), ["key"])


async def test_a_shared_command_keeps_the_order_of_the_calls(wire: Connection):
    """Commands run in the order of their calls, shared or not, and large values go alone."""
    key, other = f"order-{uuid4().hex}", f"order-{uuid4().hex}"
    head = ("EVAL", APPEND, 1, key)
    words = [str(n) for n in range(60)]
    words[20] = "x" * (LARGEST_SHARED + 1)
    calls: list[Any] = []
    for n, word in enumerate(words):
        shared = n % 15 != 14
        calls.append(wire.share(head, [word]) if shared else wire.call("RPUSH", key, word))
    others = [wire.share(("EVAL", APPEND, 1, other), ["1"]), wire.share(head, ["last"])]
    replies = await asyncio.gather(*calls, *others)

    stored = [word.decode() for word in await wire.call("LRANGE", key, 0, -1)]
    assert stored == [*words, "last"]
    assert [one for one in replies if isinstance(one, list)] == [
        [word.encode()] for n, word in enumerate(words) if n % 15 != 14
    ] + [[b"1"], [b"last"]]
    await wire.call("DEL", key, other)


async def test_a_subscription_to_a_silent_server_is_given_up(tmp_path: Path):
    """A subscription to a silent server is given up after the timeout of a reply."""
    with Valkey(tmp_path) as valkey:
        async with Connection(parse_url(valkey.url), timeout=0.5) as connection:
            with valkey.frozen(), pytest.raises(Disconnected, match="no answer"):
                await connection.tell("SUBSCRIBE", "news")


async def test_a_refused_subscription_is_an_error(server: Valkey):
    """A refused subscription raises an error, and the others on the connection go on."""
    pushes: asyncio.Queue[Any] = asyncio.Queue()
    admin = f"redis://writer:sesame@127.0.0.1:{server.port}"
    async with Connection(parse_url(admin)) as connection:
        rules = ["on", ">x", "allkeys", "allcommands", "resetchannels", "&open:*"]
        await connection.call("ACL", "SETUSER", "limited", *rules)
        limited = parse_url(f"redis://limited:x@127.0.0.1:{server.port}")
        async with Connection(limited, on_push=pushes.put_nowait) as listener:
            refused, confirmed = (
                listener.tell("SUBSCRIBE", "news"),
                listener.tell("SUBSCRIBE", "open:1"),
            )
            with pytest.raises(ResponseError, match="(?i)noperm|no permissions"):
                await refused
            await confirmed
            await connection.call("PUBLISH", "open:1", "hello")
            assert await pushes.get() == [b"message", b"open:1", b"hello"]


async def test_a_closed_connection_refuses_calls(servers: Any):
    """A closed connection fails pending and later calls."""
    wire = Connection(parse_url(servers.urls["redis"]))
    await wire.connect()
    waiting = wire.call("BLPOP", "nothing", 0)
    await asyncio.sleep(0)  # it is sent
    await wire.close()

    with pytest.raises(Disconnected):
        await waiting
    with pytest.raises(Disconnected, match="closed"):
        wire.call("PING")
    with pytest.raises(Disconnected, match="closed"):
        await wire.connect()


async def test_pushed_messages_are_passed_on(servers: Any, wire: Connection):
    """The messages of a subscription are passed to ``on_push``."""
    pushes: asyncio.Queue[Any] = asyncio.Queue()
    async with Connection(parse_url(servers.urls["redis"]), on_push=pushes.put_nowait) as listener:
        await listener.tell("SUBSCRIBE", "news-of-the-wire")
        await wire.call("PUBLISH", "news-of-the-wire", "hello")
        assert await pushes.get() == [b"message", b"news-of-the-wire", b"hello"]
