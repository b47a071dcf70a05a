"""The hub, which passes events to subscribers inside one process."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from tests.waiting import eventually
from vibetuner.sse.event import Event, idle_id
from vibetuner.sse.feed import BACKLOG, BACKLOG_BYTES, BATCH_BYTES, Subscriber
from vibetuner.sse.hub import COLLECT_SECONDS_AT_MOST, Hub


def numbered(number: int, data: str = "") -> Event:
    """Return an event with an id, as events from Redis have one."""
    return Event("n", data or str(number), f"{number}-0")


async def next_of(subscriber: Subscriber) -> list[str] | None:
    """Return the data of the next events of a subscriber, or None at the end of its stream."""
    async with asyncio.timeout(60):
        events = await subscriber.events()
    return None if events is None else [event.data for event in events]


async def test_an_event_reaches_every_subscriber_of_its_channel_and_no_other():
    """An event reaches every subscriber of its channel, in order, and no other subscriber."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("news") as bob, hub.subscribe("jobs") as eve:
        hub.publish("news", numbered(1))
        hub.publish("news", numbered(2))
        hub.publish("jobs", numbered(3))

        for subscriber in (ann, bob):
            assert await next_of(subscriber) == ["1", "2"]
        assert await next_of(eve) == ["3"]


async def test_events_that_come_together_are_sent_together():
    """Events that come together wake a subscriber once, with the same bytes for all."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("news") as bob:
        waiting = [asyncio.create_task(subscriber.batch()) for subscriber in (ann, bob)]
        await asyncio.sleep(0)
        for number in range(1, 11):
            hub.publish("news", numbered(number))
        async with asyncio.timeout(60):
            first, second = await asyncio.gather(*waiting)

    assert first == b"".join(numbered(number).frame for number in range(1, 11))
    assert second is first


async def test_a_subscriber_that_reads_and_waits_by_turns_gets_every_event():
    """A subscriber gets what is published while it waits, and what is published in between."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        subscriber.begin_after("1-0")
        for number in (2, 4, 6):
            waiting = asyncio.create_task(next_of(subscriber))
            await asyncio.sleep(0)
            hub.publish("news", numbered(1))
            hub.publish("news", numbered(number))
            assert (await waiting)[-1] == str(number)
            hub.publish("news", numbered(number + 1))
            await eventually(lambda: not hub._to_wake)
            assert await next_of(subscriber) == [str(number + 1)]


async def test_a_subscriber_that_has_left_leaves_no_trace():
    """A subscriber that has left leaves nothing in the hub, whose channels come and go."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        assert len(hub) == 1
        hub.publish("news", numbered(1))
        trace = weakref.ref(subscriber._feed)
    with pytest.raises(KeyError), hub.subscribe("news"):
        raise KeyError
    del subscriber

    hub.publish("news", numbered(1))
    gc.collect()

    assert len(hub) == 0
    assert not hub._feeds
    assert not hub._to_wake
    assert hub._waking is hub._beating is None
    assert trace() is None


async def test_a_silence_is_reported_so_that_the_connection_can_be_kept_alive():
    """A subscriber gets an empty batch after each span without an event, for a keepalive.

    The hub then drops the events that every subscriber has read.
    """
    hub = Hub(keepalive=0.02)
    with hub.subscribe("news") as subscriber:
        async with asyncio.timeout(60):
            assert await subscriber.batch() == b""
            assert await subscriber.batch() == b""
            hub.publish("news", numbered(1))
            assert await subscriber.batch() == numbered(1).frame
        await eventually(lambda: not hub._feeds["news"].events)


async def test_a_subscriber_that_is_too_far_behind_is_closed_and_holds_up_nobody():
    """A subscriber that is too far behind is closed, and others get every event.

    The browser reconnects with the id of the last event that it got.
    """
    hub = Hub()
    with hub.subscribe("news") as slow, hub.subscribe("news") as quick:
        for number in range(1, BACKLOG + 2):
            hub.publish("news", numbered(number))
            assert await next_of(quick) == [str(number)]

        assert await next_of(slow) is None
        hub.publish("news", numbered(BACKLOG + 2))
        assert await next_of(quick) == [str(BACKLOG + 2)]


async def test_a_subscriber_that_is_just_not_too_far_behind_gets_everything():
    """A subscriber that is exactly as far behind as allowed gets every event."""
    hub = Hub()
    with hub.subscribe("news") as slow:
        for number in range(1, BACKLOG + 1):
            hub.publish("news", numbered(number))

        assert await next_of(slow) == [str(number) for number in range(1, BACKLOG + 1)]


async def test_memory_stays_flat_however_much_is_sent_to_somebody_who_does_not_read():
    """The queue of a subscriber that does not read is bounded in events and in bytes."""
    hub = Hub()
    big = "x" * 100_000
    with hub.subscribe("news") as stuck:
        for number in range(1, 1001):
            hub.publish("news", numbered(number, big))
            held = sum(len(event.frame) for event in stuck._feed.events)
            assert held <= BACKLOG_BYTES + len(big) + 100
        assert len(stuck._feed.events) < 12


async def test_a_batch_is_bounded_and_nothing_is_left_out():
    """A batch is bounded, and the batches together hold every event."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        for number in range(1, 51):
            hub.publish("news", numbered(number, "x" * 10_000))
        batches: list[bytes] = []
        while sum(batch.count(b"data: ") for batch in batches) < 50:
            async with asyncio.timeout(60):
                batches.append(await subscriber.batch() or b"")

    assert max(map(len, batches)) <= BATCH_BYTES
    assert b"".join(batches) == b"".join(numbered(n, "x" * 10_000).frame for n in range(1, 51))


async def test_an_event_that_comes_twice_is_sent_once():
    """An event that comes twice, as from the stream and from the relay, is sent once."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        for number in (1, 2, 2, 1, 3):
            hub.publish("news", numbered(number))
        assert await next_of(subscriber) == ["1", "2", "3"]


async def test_what_the_history_has_given_is_not_sent_again_however_late_it_comes():
    """An event that the history has given is not sent again, however late it arrives."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        hub.publish("news", numbered(1))
        subscriber.begin_after("3-0")
        assert await next_of(subscriber) == []
        hub.publish("news", numbered(3))
        assert await next_of(subscriber) == []
        hub.publish("news", numbered(4))
        assert await next_of(subscriber) == ["4"]


async def test_a_gap_is_read_from_where_the_first_subscriber_began():
    """The gap of a channel begins at the earliest position of its subscribers."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("news") as bob, hub.subscribe("jobs"):
        assert hub.cursors() == {}
        bob.begin_after("9-0")
        ann.begin_after("7-0")
        assert hub.cursors() == {"news": "7-0"}

        for number in (8, 9, 10):
            hub.publish("news", numbered(number))
        assert hub.cursors() == {"news": "10-0"}
        assert await next_of(ann) == ["8", "9", "10"]
        assert await next_of(bob) == ["10"]


async def test_after_a_loss_ids_may_begin_anew():
    """After a reset, smaller ids are accepted, as a Redis that lost its data may count anew."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        subscriber.begin_after("90-0")
        hub.publish("news", numbered(100))
        hub.publish("news", Event("reset", "", idle_id(50)), anew=True)
        hub.publish("news", numbered(60))
        assert await next_of(subscriber) == ["100", "", "60"]


async def test_a_reset_wakes_the_subscribers_of_its_channel():
    """A reset reaches a waiting subscriber at once, and a channel without one is left alone."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        waiting = asyncio.create_task(next_of(subscriber))
        await asyncio.sleep(0)
        for channel in ("jobs", "news"):
            hub.publish(channel, Event("reset", channel, idle_id(50)), anew=True)
        assert await waiting == ["news"]
        assert (hub.has("news"), hub.has("jobs")) == (True, False)


async def test_closing_the_hub_ends_every_stream_after_its_queued_events():
    """Closing the hub ends every stream after its queued events, and refuses new ones."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("jobs") as bob:
        hub.publish("news", numbered(1, "last words"))

        hub.close()
        hub.close()

        assert await next_of(ann) == ["last words"]
        assert await next_of(ann) is None
        assert await next_of(bob) is None
    with hub.subscribe("news") as late:
        assert await next_of(late) is None
    with hub.serving(), hub.subscribe("news") as again:
        hub.publish("news", numbered(2))
        assert await next_of(again) == ["2"]


def test_local_ids_rise_whatever_the_clock_does():
    """Without Redis, the hub's own ids rise from the time in ms, even if the clock does not."""
    hub, began = Hub(), time.time_ns() // 1_000_000
    ids = [Event("n", "", hub.next_id()).position for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert began <= ids[0][0] <= ids[-1][0] <= time.time_ns() // 1_000_000
    assert ids[0][1] == 0


async def test_a_crowd_of_events_waits_as_long_as_the_last_wake_up_took():
    """Events that come in a crowd wait as long as the last wake-up took, but single ones don't."""
    hub, loop = Hub(), asyncio.get_running_loop()
    with hub.subscribe("news"):
        hub.publish("news", numbered(1))
        await eventually(lambda: hub._waking is None)
        await asyncio.sleep(0)
        assert hub._next_wake == 0
        for number in (2, 3):
            hub.publish("news", numbered(number))
        await eventually(lambda: hub._next_wake)
        assert loop.time() - 5 < hub._next_wake <= loop.time() + COLLECT_SECONDS_AT_MOST
