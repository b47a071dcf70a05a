"""The switchboard inside one process."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from tests.waiting import eventually
from vibetuner.sse.event import Event, idle_id
from vibetuner.sse.feed import BACKLOG, BACKLOG_BYTES, BATCH_BYTES, Subscriber
from vibetuner.sse.hub import COLLECT_SECONDS_AT_MOST, Hub


def numbered(number: int, data: str = "") -> Event:
    """An event with an id, as they come from Redis."""
    return Event("n", data or str(number), f"{number}-0")


async def next_of(subscriber: Subscriber) -> list[str] | None:
    """The data of what a subscriber is handed next; None for the end of its stream."""
    async with asyncio.timeout(20):
        events = await subscriber.events()
    return None if events is None else [event.data for event in events]


async def test_an_event_reaches_every_subscriber_of_its_channel_and_no_other():
    """In the order in which events were published."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("news") as bob, hub.subscribe("jobs") as eve:
        hub.publish("news", numbered(1))
        hub.publish("news", numbered(2))
        hub.publish("jobs", numbered(3))

        for subscriber in (ann, bob):
            assert await next_of(subscriber) == ["1", "2"]
        assert await next_of(eve) == ["3"]


async def test_who_waits_is_woken_and_what_comes_together_is_sent_together():
    """A wake-up for ten events is one; as bytes they are the same for everybody."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("news") as bob:
        waiting = [asyncio.create_task(subscriber.batch()) for subscriber in (ann, bob)]
        await asyncio.sleep(0)
        for number in range(1, 11):
            hub.publish("news", numbered(number))
        async with asyncio.timeout(20):
            first, second = await asyncio.gather(*waiting)

    assert first == b"".join(numbered(number).frame for number in range(1, 11))
    assert second is first


async def test_who_has_left_leaves_no_trace():
    """A hub lives as long as its process; channels come and go by the thousand."""
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


async def test_a_silence_is_told_so_that_the_connection_can_be_kept_alive():
    """Nothing after every span without an event, and then the events that come."""
    hub = Hub(keepalive=0.02)
    with hub.subscribe("news") as subscriber:
        async with asyncio.timeout(20):
            assert await subscriber.batch() == b""
            assert await subscriber.batch() == b""
            hub.publish("news", numbered(1))
            assert await subscriber.batch() == numbered(1).frame


async def test_a_subscriber_that_is_too_far_behind_is_closed_and_holds_up_nobody():
    """The browser comes back by itself, with the id of the last event that it got."""
    hub = Hub()
    with hub.subscribe("news") as slow, hub.subscribe("news") as quick:
        for number in range(1, BACKLOG + 2):
            hub.publish("news", numbered(number))
            assert await next_of(quick) == [str(number)]

        assert await next_of(slow) is None
        hub.publish("news", numbered(BACKLOG + 2))
        assert await next_of(quick) == [str(BACKLOG + 2)]


async def test_a_subscriber_that_is_just_not_too_far_behind_gets_everything():
    """The bound is what it says."""
    hub = Hub()
    with hub.subscribe("news") as slow:
        for number in range(1, BACKLOG + 1):
            hub.publish("news", numbered(number))

        assert await next_of(slow) == [str(number) for number in range(1, BACKLOG + 1)]


async def test_memory_stays_flat_however_much_is_sent_to_somebody_who_does_not_read():
    """The queue is bounded in events and in bytes, and is one for all."""
    hub = Hub()
    big = "x" * 100_000
    with hub.subscribe("news") as stuck:
        for number in range(1, 1001):
            hub.publish("news", numbered(number, big))
            held = sum(len(event.frame) for event in stuck._feed.events)
            assert held <= BACKLOG_BYTES + len(big) + 100
        assert len(stuck._feed.events) < 12


async def test_a_batch_is_bounded_and_nothing_is_left_out():
    """A slow browser holds one batch in the server's buffer, not the whole queue."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        for number in range(1, 51):
            hub.publish("news", numbered(number, "x" * 10_000))
        batches: list[bytes] = []
        while sum(batch.count(b"data: ") for batch in batches) < 50:
            async with asyncio.timeout(20):
                batches.append(await subscriber.batch() or b"")

    assert max(map(len, batches)) <= BATCH_BYTES
    assert b"".join(batches) == b"".join(numbered(n, "x" * 10_000).frame for n in range(1, 51))


async def test_an_event_that_comes_twice_is_sent_once():
    """Once from the stream while the relay was away, once more by the relay."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        for number in (1, 2, 2, 1, 3):
            hub.publish("news", numbered(number))
        assert await next_of(subscriber) == ["1", "2", "3"]


async def test_what_the_history_has_given_is_not_sent_again_however_late_it_comes():
    """The read of the stream overtakes the relay, or the other way round."""
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
    """A later one, who has read further, must not hide from it what it still lacks."""
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
    """A Redis that has forgotten everything may also have a clock that is behind."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        subscriber.begin_after("90-0")
        hub.publish("news", numbered(100))
        hub.reset("news", Event("reset", "", idle_id(50)))
        hub.publish("news", numbered(60))
        assert await next_of(subscriber) == ["100", "", "60"]


async def test_closing_the_hub_ends_every_stream_after_what_is_owed():
    """A web process that stops must not wait for browsers to leave, nor take new ones."""
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
    """Without a Redis that gives ids, the hub does."""
    hub = Hub()
    ids = [Event("n", "", hub.next_id()).position for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert ids[0][1] == 0


async def test_a_crowd_of_events_waits_as_long_as_the_last_wake_up_took():
    """Those that come one by one are sent at once."""
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
