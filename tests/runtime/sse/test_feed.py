"""The queue of one channel, and the positions of its subscribers."""

from __future__ import annotations

import asyncio

from vibetuner.sse.event import Event
from vibetuner.sse.feed import BACKLOG_BYTES, BATCH_BYTES, Feed


def sized(number: int, size: int) -> Event:
    """Return an event of this size in bytes."""
    rest = len(Event("n", "x", f"{number}-0").frame) - 1
    return Event("n", "x" * (size - rest), f"{number}-0")


def test_an_event_is_queued_once():
    """An event is queued once by its id; events without an id are always queued."""
    feed = Feed("news")
    assert (feed.channel, feed.cursor, feed.start, feed.end) == ("news", "", 0, 0)
    numbers = ["1-0", "1-0", "2-0", "1-0", "", ""]
    assert [feed.add(Event("n", "", one)) for one in numbers] == [
        True, False, True, False, True, True,
    ]  # fmt: skip
    assert (feed.cursor, feed.start, feed.end) == ("2-0", 0, 4)


def test_the_bytes_of_a_queue_are_bounded():
    """The queue's bytes are bounded, except for a single larger event."""
    feed = Feed("news")
    for number, size, left in (
        (1, BACKLOG_BYTES // 2, 1),
        (2, BACKLOG_BYTES // 2, 2),
        (3, 100, 2),
        (4, BACKLOG_BYTES + 1, 1),
        (5, BACKLOG_BYTES + 1, 1),
        (6, 100, 1),
        (7, BACKLOG_BYTES - 100, 2),
    ):
        feed.add(sized(number, size))
        assert (len(feed.events), feed.end) == (left, number)


async def test_events_that_all_have_read_can_be_dropped():
    """Events that every subscriber has read can be dropped, and positions keep counting."""
    feed = Feed("news")
    ann, bob = feed.join(), feed.join()
    for number in (1, 2, 3):
        feed.add(sized(number, 100))
    ann.index, bob.index = 2, 1
    feed.wake()
    assert (feed.start, feed.end) == (0, 3)
    feed.wake(trim=True)
    assert (feed.start, feed.end) == (1, 3)
    assert feed.batch(1) == (sized(2, 100).frame + sized(3, 100).frame, 3)
    bob.begin_after("2-0")
    assert await bob.events() == [sized(3, 100)]

    feed.subscribers.discard(ann)
    feed.subscribers.discard(bob)
    feed.wake(trim=True)
    assert (feed.start, feed.end) == (3, 3)


def test_a_batch_is_filled_to_its_last_byte():
    """A batch is filled up to its bound, and a larger event is a batch of its own."""
    feed = Feed("news")
    for number, size in enumerate((BATCH_BYTES // 2, BATCH_BYTES // 2, 100, 2 * BATCH_BYTES), 1):
        feed.add(sized(number, size))
    batches = [feed.batch(0), feed.batch(2), feed.batch(3)]
    assert [(len(data), end) for data, end in batches] == [
        (BATCH_BYTES, 2), (100, 3), (2 * BATCH_BYTES, 4),
    ]  # fmt: skip
    assert feed.batch(0)[0] is batches[0][0]


def test_a_gap_is_read_from_the_earliest_place():
    """A gap begins at the earliest id of the subscribers, unless an event was queued.

    An unreadable id comes before all others.
    """
    feed = Feed("news")
    for cursor, kept in (("7-0", "7-0"), ("9-0", "7-0"), ("0-1", "0-1"), ("x", "x")):
        feed.begin(cursor)
        assert feed.cursor == kept
    feed.add(Event("n", "", "8-0"))
    feed.begin("1-0")
    assert feed.cursor == "8-0"


async def test_a_pause_ends_when_its_subscriber_is_closed():
    """A pause ends after its time or when its subscriber is closed, but not at an event."""
    subscriber = Feed("news").join()
    began = asyncio.get_running_loop().time()
    await subscriber.pause(0.01)
    assert asyncio.get_running_loop().time() - began >= 0.01
    assert subscriber.closed is False

    pausing = asyncio.create_task(subscriber.pause(60))
    for end in (subscriber.wake, subscriber.wake, subscriber.close):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not pausing.done()
        end()
    async with asyncio.timeout(60):
        await pausing
        await subscriber.pause(60)
