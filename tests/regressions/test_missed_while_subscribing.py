"""Events and results that come while somebody begins to listen, or after a loss nobody saw."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

from tests.listeners import open_proxy
from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.embedded import Lease
from vibetuner.redis.client import open_redis, open_resource
from vibetuner.redis.connection import Connection
from vibetuner.redis.url import Address, parse_url
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import History
from vibetuner.sse.hub import Hub
from vibetuner.sse.relay import open_relay
from vibetuner.sse.stream import EventStream
from vibetuner.state import request_seconds
from vibetuner.tasks.client.results import PAUSES_SECONDS, ResultListener


class Held:
    """Holds the answers of a server that contain some bytes, until they are released."""

    def __init__(self, part: bytes = b"") -> None:
        self.part = part
        self.seen, self.released = asyncio.Event(), asyncio.Event()

    async def __call__(self, data: bytes) -> None:
        if self.part in data and not self.seen.is_set():
            self.seen.set()
            await self.released.wait()


async def read_stream(subscriber: Subscriber, sent: list[bytes]) -> None:
    """Collect what an event stream writes."""

    async def write(data: bytes) -> None:
        sent.append(data)

    await EventStream(subscriber.channel).run(subscriber, write)


async def test_an_event_arrives_that_passed_while_relay_and_stream_began(settings: Settings):
    """An event arrives that came after a stream's place was read, and before the relay listened."""
    hub, sent, held = Hub(), list[bytes](), Held()
    async with (
        open_proxy(parse_url(settings.redis_url or ""), on_answer=held) as port,
        open_redis(settings) as client,
    ):
        history = History(client, settings)
        held.part = (await history.send("news", "n", "old")).encode()
        slow = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        async with open_resource(slow):
            with hub.subscribe("news") as subscriber:
                reading = asyncio.create_task(read_stream(subscriber, sent))
                await held.seen.wait()  # the server has told the place
                await history.send("news", "n", "between")
                async with open_relay(history, hub):
                    held.released.set()
                    await eventually(lambda: b"data: between" in b"".join(sent))
                    await history.send("news", "n", "later")
                    await eventually(lambda: b"data: later" in b"".join(sent))
                subscriber.close()
                await reading
    assert b"".join(sent).count(b"event: n") == 2


async def test_a_result_arrives_though_its_connection_has_broken_unnoticed(
    servers: Lease,
):
    """A result arrives that the server sent into a connection that nobody had seen break."""
    address, held = parse_url(servers.urls["redis"]), Held(b"message")
    key = f"test-{uuid4().hex}"
    async with (
        open_proxy(address, on_answer=held) as port,
        Connection(address) as direct,
    ):
        token = request_seconds.set(1)
        listener = ResultListener(Address(host="127.0.0.1", port=port))
        request_seconds.reset(token)

        async def read() -> bytes:
            return await direct.call("GET", key) or b""

        async def is_subscribed() -> bool:
            return (await direct.call("PUBSUB", "NUMSUB", key))[1] > 0

        async with listener:
            waiting = asyncio.create_task(listener.wait(key, key, read))
            await eventually(is_subscribed)
            await direct.call("SET", key, "the result", "EX", 60)
            await direct.call("PUBLISH", key, "the result")
            await held.seen.wait()
            assert await asyncio.wait_for(waiting, 20) == b"the result"
        held.released.set()


async def test_each_loss_of_a_long_wait_is_mended_as_quickly_as_the_first(tmp_path: Path):
    """A wait for a result goes on after many losses, however many there were before."""
    with Valkey(tmp_path, lasting=False) as valkey:
        address = parse_url(valkey.url)
        async with Connection(address) as direct, ResultListener(address) as listener:

            async def read() -> bytes:
                return await direct.call("GET", "key") or b""

            async def is_subscribed() -> bool:
                return (await direct.call("PUBSUB", "NUMSUB", "channel"))[1] > 0

            waiting = asyncio.create_task(listener.wait("channel", "key", read))
            async with asyncio.timeout(15):  # the pauses of one outage are longer
                for _ in range(len(PAUSES_SECONDS) + 1):
                    await eventually(is_subscribed)
                    await direct.call("CLIENT", "KILL", "TYPE", "pubsub")
                await eventually(is_subscribed)
                await direct.call("PUBLISH", "channel", "the result")
                assert await waiting == b"the result"
