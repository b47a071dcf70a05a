"""Events that a returning browser has missed, and gaps that can't be filled."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.redis.client import open_redis
from vibetuner.sse.event import idle_id, parse_id
from vibetuner.sse.history import PORTION_BYTES, History
from vibetuner.testing import held_open


@pytest.fixture
async def history(settings: Settings) -> AsyncIterator[History]:
    """Return a history of few events, so that it overflows."""
    async with held_open(open_redis(settings)) as client:
        yield History(client, limited(settings, sse_history=5, sse_history_ttl=60))


def limited(settings: Settings, **limits: int) -> Settings:
    """Return the settings with other limits of a channel."""
    return settings.model_copy(update=limits)


async def test_a_browser_that_returns_gets_missed_events_in_order_and_once(history: History):
    """A reconnecting browser gets the missed events once and in order, from any kept position."""
    ids = [await history.send("news", "n", str(number)) for number in range(5)]
    for place, event_id in enumerate(ids):
        past = await history.read("news", event_id)
        assert past.missed is not None
        assert [event.id for event in past.missed] == ids[place + 1 :]
        assert [event.data for event in past.missed] == [str(n) for n in range(place + 1, 5)]
        assert past.end == ids[-1]


async def test_a_new_browser_gets_no_old_event_and_the_last_id(
    history: History,
):
    """A new browser gets no old event, but the id of the last one."""
    sent = await history.send("news", "n", "old")
    past = await history.read("news", None)
    assert (past.missed, past.end) == ([], sent)


async def test_a_browser_that_came_before_the_first_event_misses_nothing(history: History):
    """A browser that came before the first event misses none of them."""
    first = await history.read("news", None)
    sent = [await history.send("news", "n", str(number)) for number in range(5 - 1)]
    past = await history.read("news", first.end)
    assert past.missed is not None
    assert [event.id for event in past.missed] == sent
    quiet = await history.read("silence", first.end)
    assert quiet.missed == []


async def test_a_browser_that_comes_after_an_overrun_is_told(history: History):
    """A browser that returns after its position was trimmed is told that events are missing.

    Streams are trimmed in whole nodes, so more than the size is needed to lose one.
    """
    first = await history.send("news", "n", "x")
    for _ in range(400):
        await history.send("news", "n", "x")
    length = await history.redis.xlen(history.keys.events("news"))
    assert 5 <= length <= 5 + 100
    past = await history.read("news", first)
    assert past.missed is None
    assert parse_id(past.end) > parse_id(first)
    kept = await history.read("news", past.end)
    assert kept.missed == []


async def test_a_browser_that_came_before_anything_is_told_of_an_overrun(history: History):
    """A browser that came before the first event is told if that was trimmed."""
    first = await history.read("news", None)
    for _ in range(400):
        await history.send("news", "n", "x")
    assert (await history.read("news", first.end)).missed is None


@pytest.mark.parametrize(
    "forged",
    [
        "abc",
        "99999999999999-0",
        "1-1",
        idle_id(5),
        idle_id(99999999999999),
        "1-2\n",
        f"{2**64 - 1}-{2**64 - 1}",
        f"{2**64 - 1}-0",
        f"{2**64}-0",
        f"0-{2**64 - 1}",
    ],
)
async def test_an_id_that_the_stream_never_gave_has_missed_everything(
    history: History, forged: str
):
    """An id that the stream never gave counts as having missed everything."""
    assert (await history.read("news", forged)).missed is None
    await history.send("news", "n", "x")
    assert (await history.read("news", forged)).missed is None


async def test_a_stream_that_has_run_out_of_time_is_told(history: History, settings: Settings):
    """A browser that returns after its stream has expired is told that events are missing."""
    short = History(history.redis, limited(settings, sse_history=5, sse_history_ttl=1))
    sent = await short.send("news", "n", "x")
    silent = (await short.read("other", None)).end

    async def is_gone() -> bool:
        return not await short.redis.exists([short.keys.events("news")])

    async def is_told() -> bool:
        return (await short.read("other", silent)).missed is None

    assert (await short.read("other", silent)).missed == []
    await eventually(is_gone)
    assert (await short.read("news", sent)).missed is None
    await eventually(is_told)


async def test_every_key_has_a_time_to_live(history: History):
    """Every key of a channel has a time to live."""
    for number in range(20):
        await history.send(f"channel:{number}", "n", "x")
        await history.read(f"unheard:{number}", None)
    keys = [key async for key in history.redis.scan_iter(f"{history.keys.prefix}*", count=10_000)]
    assert len(keys) == 20
    assert all([0 < await history.redis.ttl(key) <= 60 for key in keys])


async def test_a_channel_keeps_so_many_bytes_and_no_more(history: History, settings: Settings):
    """A channel keeps no more than its bytes, or the last event if that is larger."""
    small = History(history.redis, limited(settings, sse_history=1000, sse_history_bytes=50_000))
    ids = [await small.send("news", "n", "x" * 9_999) for _ in range(20)]
    assert [
        entry.identifier for entry in await small.redis.xrange(small.keys.events("news"))
    ] == ids[-5:]
    assert (await small.read("news", ids[-6])).missed is None
    kept = (await small.read("news", ids[-5])).missed
    assert kept is not None
    assert [event.id for event in kept] == ids[-4:]
    last = await small.send("news", "n", "x" * 60_000)
    assert await small.redis.xlen(small.keys.events("news")) == 1
    assert (await small.read("news", None)).end == last


async def test_a_browser_that_came_before_the_first_event_learns_that_some_were_trimmed(
    history: History, settings: Settings
):
    """A browser that came before the first event is told if bytes have pushed events out."""
    small = History(history.redis, limited(settings, sse_history=1000, sse_history_bytes=20_000))
    idle = (await small.read("news", None)).end
    await small.send("news", "n", "x" * 9_999)
    assert len((await small.read("news", idle)).missed or ()) == 1
    for _ in range(3):
        await small.send("news", "n", "x" * 9_999)
    assert (await small.read("news", idle)).missed is None


async def test_a_long_past_is_read_in_portions_of_bounded_size(
    history: History, settings: Settings
):
    """A long history is read in portions of bounded size, each after the one before."""
    large = History(
        history.redis, limited(settings, sse_history=1000, sse_history_bytes=10_000_000)
    )
    ids = [await large.send("news", "n", "x" * 20_000) for _ in range(30)]
    got, portions, position, more = [], 0, ids[0], True
    while more:
        past = await large.read("news", position)
        assert past.missed
        assert sum(len(event.data) for event in past.missed[:-1]) < PORTION_BYTES
        got += [event.id for event in past.missed]
        portions, position, more = portions + 1, past.end, past.more
    assert got == ids[1:]
    assert portions == 8


async def test_any_data_comes_back_as_it_was(history: History):
    """Data with line breaks, quotes or non-ASCII characters comes back unchanged."""
    texts = ["", "two\nlines", "\r\n", '"größer" <b>', "\x00", "a\n\nevent: forged"]
    first = await history.send("news", "n", "first")
    for text in texts:
        await history.send("news", "n", text)
    past = await history.read("news", first)
    assert past.missed is not None
    assert [event.data for event in past.missed] == texts
