"""The relay of events between processes: one Redis subscription a web process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.redis.client import make_client, open_redis
from vibetuner.sse.event import Event
from vibetuner.sse.feed import Subscriber
from vibetuner.sse.history import History
from vibetuner.sse.hub import Hub
from vibetuner.sse.relay import open_relay


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """Yield a server that loses its data when it is killed."""
    server = Valkey(tmp_path, lasting=False)
    yield server
    server.kill()


@pytest.fixture
def lasting_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """Yield a server that has its data again after a restart."""
    server = Valkey(tmp_path)
    yield server
    server.kill()


@asynccontextmanager
async def relaying(
    settings: Settings, hub: Hub, **options: float
) -> AsyncIterator[tuple[Subscriber, History]]:
    """Run a relay; yield a subscriber of the channel ``news``, and the history."""
    async with open_redis(settings) as client:
        history = History(client, settings)
        async with open_relay(history, hub, **options):
            with hub.subscribe("news") as subscriber:
                subscriber.begin_after((await history.read("news", None)).end)
                yield subscriber, history


async def next_of(subscriber: Subscriber, count: int = 1) -> list[tuple[str, str]]:
    """Return names and data of the next events, at least ``count``."""
    got: list[Event] = []
    async with asyncio.timeout(60):
        while len(got) < count:
            events = await subscriber.events()
            assert events is not None
            got += events
    return [(event.name, event.data) for event in got]


async def send(settings: Settings, *texts: str, event: str = "hello") -> None:
    """Send events as another process does, with a connection of its own."""
    async with open_redis(settings) as client:
        for text in texts:
            await History(client, settings).send("news", event, text)


async def until_said(caplog: pytest.LogCaptureFixture, words: str, times: int = 1) -> None:
    await eventually(lambda: sum(words in message for message in caplog.messages) >= times)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message.split(" (")[0] for message in caplog.messages if "relay" in message]


LOST_AND_FOUND = ["event relay lost Redis", "event relay reconnected to Redis"]


async def test_the_relay_logs_each_loss_and_each_return_of_redis_once(
    lasting_valkey: Valkey, caplog: pytest.LogCaptureFixture
):
    """The relay logs each loss of Redis and each reconnection once, however often it tries."""
    valkey = lasting_valkey
    caplog.set_level(logging.INFO, "vibetuner")
    valkey.start()
    async with relaying(valkey.settings, Hub()) as (subscriber, _):
        for outage in (1, 2):
            valkey.kill()
            await until_said(caplog, "lost Redis", outage)
            await valkey.tries(2)
            valkey.start()
            await until_said(caplog, "reconnected to Redis", outage)

            await send(valkey.settings, str(outage))
            assert await next_of(subscriber) == [("hello", str(outage))]

    assert said(caplog) == LOST_AND_FOUND * 2


async def test_the_gap_is_filled_from_the_stream(
    lasting_valkey: Valkey, caplog: pytest.LogCaptureFixture
):
    """Events that were sent during an outage arrive once and in order, before later ones."""
    valkey = lasting_valkey
    caplog.set_level(logging.INFO, "vibetuner")
    valkey.start()
    async with relaying(valkey.settings, Hub()) as (subscriber, _):
        await send(valkey.settings, "before")
        assert await next_of(subscriber) == [("hello", "before")]
        valkey.kill()
        await until_said(caplog, "lost Redis")
        await valkey.tries(2)
        valkey.start()
        await send(valkey.settings, *map(str, range(50)))  # the relay waits a moment longer
        await until_said(caplog, "reconnected to Redis")
        await send(valkey.settings, "after")

        wanted = [*map(str, range(50)), "after"]
        assert await next_of(subscriber, 51) == [("hello", text) for text in wanted]


async def test_a_loss_of_data_in_redis_resets_subscribers(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
):
    """After a Redis has lost its data, a subscriber gets a reset, and then later events."""
    caplog.set_level(logging.INFO, "vibetuner")
    valkey.start()
    async with relaying(valkey.settings, Hub()) as (subscriber, _):
        await send(valkey.settings, "before")
        assert await next_of(subscriber) == [("hello", "before")]
        valkey.kill()
        await until_said(caplog, "lost Redis")
        valkey.start()
        await until_said(caplog, "reconnected to Redis")
        await send(valkey.settings, "after")

        assert await next_of(subscriber, 2) == [("reset", ""), ("hello", "after")]


async def test_a_connection_that_is_silent_is_noticed(
    lasting_valkey: Valkey, caplog: pytest.LogCaptureFixture
):
    """A silent connection is recognized as lost, and the relay reconnects."""
    valkey = lasting_valkey
    caplog.set_level(logging.INFO, "vibetuner")
    valkey.start()
    async with relaying(valkey.settings, Hub(), silence=0.6) as (subscriber, _):
        valkey.freeze()
        await until_said(caplog, "lost Redis")
        valkey.thaw()
        await until_said(caplog, "reconnected to Redis")
        await send(valkey.settings, "hello")
        assert await next_of(subscriber) == [("hello", "hello")]
    assert said(caplog) == LOST_AND_FOUND


async def test_a_quiet_relay_is_not_taken_for_a_lost_one(
    settings: Settings, caplog: pytest.LogCaptureFixture
):
    """A quiet relay asks the server for replies, and is not logged as lost."""
    async with relaying(settings, Hub(), silence=1) as (subscriber, _):
        await asyncio.sleep(2.5)
        await send(settings, "hello")
        assert await next_of(subscriber) == [("hello", "hello")]
    assert said(caplog) == []


async def test_a_web_process_starts_while_redis_is_away(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
):
    """A web process starts without Redis, and its relay joins when Redis answers."""
    caplog.set_level(logging.INFO, "vibetuner")
    hub = Hub()
    async with make_client(valkey.settings) as client, asyncio.timeout(60):
        async with open_relay(History(client, valkey.settings), hub):
            valkey.start()
            await until_said(caplog, "reconnected to Redis")
            with hub.subscribe("news") as subscriber:
                await send(valkey.settings, "you")
                assert await next_of(subscriber) == [("hello", "you")]


async def test_what_is_published_inside_the_block_arrives(settings: Settings):
    """Any text that is sent inside the relay's block arrives, in order."""
    texts = ["", "<b>größer</b>", "two\nlines", '"quoted"', "a\n1-1\nforged\ndata"]
    async with relaying(settings, Hub()) as (subscriber, _):
        await send(settings, *texts)

        assert await next_of(subscriber, len(texts)) == [("hello", text) for text in texts]


async def test_projects_that_share_a_redis_do_not_hear_each_other(settings: Settings):
    """Projects with different prefixes get only their own events."""
    others = settings.model_copy(update={"redis_key_prefix": "another:"})
    async with relaying(settings, Hub()) as (subscriber, _):
        await send(others, "others")
        await send(settings, "us")

        assert await next_of(subscriber) == [("hello", "us")]


@pytest.mark.parametrize("message", ["hello", "5", "a\nb\nc\nd", "a\n1-1\n\nd", "\n", "[1, 2]"])
async def test_a_message_that_is_not_ours_is_left_out(
    settings: Settings, caplog: pytest.LogCaptureFixture, message: str
):
    """A foreign message is left out with one log line, and ends no stream."""
    async with relaying(settings, Hub()) as (subscriber, history):
        await history.redis.publish(history.keys.topic, message)
        await send(settings, "you")

        assert await next_of(subscriber) == [("hello", "you")]
    assert len([m for m in caplog.messages if "that is no event" in m]) == 1
    assert not any("lost Redis" in m for m in caplog.messages)


async def test_the_relay_ends_with_its_block(settings: Settings):
    """The relay leaves no task and no subscription after its block."""
    hub = Hub()
    before = len(asyncio.all_tasks())
    async with open_redis(settings) as client:
        history = History(client, settings)
        async with open_relay(history, hub):
            assert (await client.pubsub_numsub(history.keys.topic))[history.keys.topic] == 1
        with hub.subscribe("news") as subscriber:
            await history.send("news", "hello", "nobody")
            assert not subscriber._feed.events

        async def nobody_listens() -> bool:
            return not (await client.pubsub_numsub(history.keys.topic))[history.keys.topic]

        await eventually(nobody_listens)
    assert len(asyncio.all_tasks()) == before


async def test_a_relay_ends_while_redis_is_away(lasting_valkey: Valkey):
    """A relay that is closed while Redis is away ends without waiting for its return."""
    lasting_valkey.start()
    async with asyncio.timeout(60), relaying(lasting_valkey.settings, Hub()) as (subscriber, _):
        await send(lasting_valkey.settings, "before")
        assert await next_of(subscriber) == [("hello", "before")]
        lasting_valkey.kill()
