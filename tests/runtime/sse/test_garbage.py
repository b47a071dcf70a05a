"""Foreign values in Redis, which stop neither the relay nor the streams."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from coredis import Redis
from hypothesis import example, given
from hypothesis import settings as rounds
from hypothesis import strategies as st

from vibetuner.config import Settings
from vibetuner.redis.client import open_redis
from vibetuner.sse.history import History
from vibetuner.sse.hub import Hub
from vibetuner.sse.relay import open_relay
from vibetuner.tasks.progress.state import (
    ProgressState,
    ProgressStatus,
    finish_progress,
    read_progress,
    register_watch,
)

LARGEST = 2**64 - 1
FAR = f"{LARGEST - 1}-0"

names = st.text(max_size=20) | st.sampled_from(["news", "reset", "n"])
ids = st.sampled_from(["1-1", FAR, f"{LARGEST}-{LARGEST}", "0-0", "x", "", "99999999999999-1"])
messages = (
    st.binary(max_size=60)
    | st.builds(lambda *parts: "\n".join(parts).encode(errors="replace"), names, ids, names, names)
    | st.builds(
        lambda event_id, name: f"news\n{event_id}\n{name}\nforged".encode(errors="replace"),
        ids, names,
    )
)  # fmt: skip
fields = st.dictionaries(st.binary(max_size=8), st.binary(max_size=40), min_size=1, max_size=4)
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
jsons = st.recursive(values, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
states = st.dictionaries(
    st.sampled_from(["task_id", "status", "done", "total", "message", "rate", "eta", "x"]), jsons
)


async def wrong_type(client: Redis[Any], key: str) -> None:
    await client.set(key, "x")


async def no_fields_of_ours(client: Redis[Any], key: str) -> None:
    await client.xadd(key, {"a": "1"})
    await client.xadd(key, {"event": "two words", "data": "x", "total": "many"})
    await client.xadd(key, {b"event": b"\xff", b"data": b"\xff\xfe"})


async def an_id_from_the_future(client: Redis[Any], key: str) -> None:
    await client.xadd(key, {"event": "n", "data": "x"}, identifier=FAR)


@given(st.lists(messages, min_size=1, max_size=15))
@rounds(max_examples=15)
def test_no_message_on_the_topic_stops_the_relay(servers, garbage: list[bytes]):
    """A foreign message on the topic does not stop the relay: a later event arrives.

    The relay doesn't take Redis for lost.
    """
    logged: list[str] = []

    async def run() -> None:
        settings = Settings(redis_url=servers.urls["redis"], redis_key_prefix="garbage")
        hub = Hub()
        async with open_redis(settings) as client:
            history = History(client, settings)
            async with open_relay(history, hub):
                with hub.subscribe("news") as subscriber:
                    first = await history.send("news", "n", "first")
                    subscriber.begin_after(first)
                    for message in garbage:
                        await client.publish(history.keys.topic, message)
                    await history.send("news", "n", "real")
                    seen: list[str] = []
                    async with asyncio.timeout(60):
                        while "real" not in seen:
                            seen += [event.data for event in await subscriber.events() or ()]
                    assert seen[-1] == "real"

    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vibetuner.sse.relay")
    logger.addHandler(handler)
    try:
        asyncio.run(run())
    finally:
        logger.removeHandler(handler)
    assert [line for line in logged if "lost Redis" in line] == []


@pytest.mark.parametrize("spoil", [wrong_type, no_fields_of_ours, an_id_from_the_future])
async def test_a_stream_that_holds_something_else_can_be_read(
    settings: Settings, spoil: Callable[..., Any]
):
    """A spoilt stream can be read: everything before its newest id counts as missed.

    The streams of other channels are intact.
    """
    async with open_redis(settings) as client:
        history = History(client, settings)
        await spoil(client, history.keys.events("news"))
        for after in (None, "1-1", FAR, "0-0"):
            past = await history.read("news", after)
            is_newest = after == FAR and spoil is an_id_from_the_future
            assert past.missed == ([] if after is None or is_newest else None)
        other = await history.send("other", "n", "x")
        assert (await history.read("other", other)).missed == []


async def test_a_channel_that_was_spoilt_keeps_no_relay_from_coming_back(settings: Settings):
    """A spoilt channel does not keep the relay from reconnecting.

    Its subscribers get a reset, and the others the events that they missed.
    """
    hub = Hub()
    async with open_redis(settings) as client:
        history = History(client, settings)
        with hub.subscribe("spoilt") as one, hub.subscribe("whole") as two:
            for subscriber in (one, two):
                sent = await history.send(subscriber.channel, "n", "first")
                subscriber.begin_after(sent)
            await client.delete([history.keys.events("spoilt")])
            await client.set(history.keys.events("spoilt"), "x", ex=60)
            await history.send("whole", "n", "missed")
            async with open_relay(history, hub), asyncio.timeout(60):
                assert [event.name for event in await one.events() or ()] == ["reset"]
                assert [event.data for event in await two.events() or ()] == ["missed"]


@given(fields, fields)
@rounds(max_examples=15)
def test_no_entry_of_a_stream_ends_a_replay(
    servers, one: dict[bytes, bytes], two: dict[bytes, bytes]
):
    """A replay leaves out entries that are not events, and has the events between them."""

    async def run() -> None:
        settings = Settings(redis_url=servers.urls["redis"], redis_key_prefix="garbage")
        async with open_redis(settings) as client:
            history = History(client, settings)
            await client.delete([history.keys.events("entries")])
            first = await history.send("entries", "n", "first")
            await client.xadd(history.keys.events("entries"), one)
            await history.send("entries", "n", "real")
            await client.xadd(history.keys.events("entries"), two)
            missed = (await history.read("entries", first)).missed
            assert missed is not None
            assert "real" in [event.data for event in missed]

    asyncio.run(run())


@given(st.binary(max_size=30) | states.map(lambda state: repr(state).encode()) | states)
@example(b"")
@rounds(max_examples=30)
def test_no_stored_state_stops_whoever_watches_the_task(servers, stored: Any):
    """A state that can't be read counts as none, and the end is published over it."""
    data = json.dumps(stored).encode() if isinstance(stored, dict) else stored

    async def run() -> None:
        settings = Settings(redis_url=servers.urls["redis"], redis_key_prefix="garbage")
        async with open_redis(settings) as client:
            history = History(client, settings)
            key = f"{settings.redis_key_prefix}progress:t"
            await client.delete([key])
            await client.hset(key, {"state": data})
            state, _ = await read_progress(history, "t")
            assert state is None or state.percent in {None, *range(101)}
            await register_watch(history, ProgressState(task_id="t"))
            await finish_progress(history, "t", ProgressStatus.COMPLETE)
            state, _ = await read_progress(history, "t")
            assert state is not None
            assert state.is_over

    asyncio.run(run())


async def test_a_key_of_progress_that_holds_something_else_reads_as_none(settings: Settings):
    """A progress key of another type reads as no state."""
    async with open_redis(settings) as client:
        await client.set(f"{settings.redis_key_prefix}progress:t", "x", ex=60)
        assert (await read_progress(History(client, settings), "t"))[0] is None
