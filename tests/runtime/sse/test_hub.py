"""The switchboard inside one process."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibetuner.sse.hub import BACKLOG, Event, Hub, Subscriber, check_channel, check_event


async def next_of(subscriber: Subscriber) -> Event | None:
    """What a subscriber is handed next; None for the end of its stream."""
    async with asyncio.timeout(5):
        return await anext(subscriber.events(keepalive=60), None)


async def test_an_event_reaches_every_subscriber_of_its_channel_and_no_other():
    """In the order in which events were published."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("news") as bob, hub.subscribe("jobs") as eve:
        hub.publish("news", Event("one", "1"))
        hub.publish("news", Event("two", "2"))
        hub.publish("jobs", Event("three", "3"))

        for subscriber in (ann, bob):
            assert await next_of(subscriber) == Event("one", "1")
            assert await next_of(subscriber) == Event("two", "2")
        assert await next_of(eve) == Event("three", "3")


def test_who_has_left_leaves_no_trace():
    """A hub lives as long as its process; channels come and go by the thousand."""
    hub = Hub()
    with hub.subscribe("news"):
        assert len(hub) == 1
    with pytest.raises(KeyError), hub.subscribe("news"):
        raise KeyError

    hub.publish("news", Event("one", "1"))

    assert len(hub) == 0
    assert not hub._subscribers


async def test_a_silence_is_told_so_that_the_connection_can_be_kept_alive():
    """None after every span without an event, and then the events that come."""
    hub = Hub()
    with hub.subscribe("news") as subscriber:
        stream = subscriber.events(keepalive=0.01)
        assert await anext(stream) is None
        assert await anext(stream) is None

        hub.publish("news", Event("one", "1"))
        assert await anext(stream) == Event("one", "1")


async def test_a_subscriber_that_is_too_far_behind_is_closed_and_holds_up_nobody():
    """It gets what it is owed, then its stream ends; the browser comes back by itself."""
    hub = Hub()
    with hub.subscribe("news") as slow, hub.subscribe("news") as quick:
        for number in range(BACKLOG + 10):
            hub.publish("news", Event("n", str(number)))
            assert await next_of(quick) == Event("n", str(number))

        owed = [event async for event in slow.events(keepalive=60)]

        assert [event.data for event in owed if event] == [str(n) for n in range(BACKLOG)]
        assert len(hub) == 1


async def test_closing_the_hub_ends_every_stream_after_what_is_owed():
    """A web process that stops must not wait for browsers to leave."""
    hub = Hub()
    with hub.subscribe("news") as ann, hub.subscribe("jobs") as bob:
        hub.publish("news", Event("last", "words"))

        hub.close()
        hub.close()

        assert await next_of(ann) == Event("last", "words")
        assert await next_of(ann) is None
        assert await next_of(bob) is None


@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1),
    data=st.text(),
)
def test_any_text_arrives_as_it_was_sent(name: str, data: str):
    """Whatever it holds, a browser reads one event with its lines; all line breaks are one."""
    assert read_as_a_browser(Event(name, data).encode()) == [
        (name, re.sub("\r\n|\r", "\n", data)),
    ]


def test_text_that_has_no_bytes_does_not_end_the_stream():
    """Half of an emoji, cut by a careless slice."""
    assert read_as_a_browser(Event("progress", "half \ud83d").encode()) == [("progress", "half ?")]


@pytest.mark.parametrize("name", ["upload:7", "größe", "a" * 200])
def test_a_name_may_be_almost_anything(name: str):
    """It is returned, so that a check can stand where the name is used."""
    assert check_channel(name) == name
    assert check_event(name) == name


@pytest.mark.parametrize("name", ["", " ", "a b", "a\nb", "a\tb", "\x00", "a" * 201])
def test_a_name_that_could_break_the_stream_is_refused(name: str):
    """It would end up in the middle of a line."""
    with pytest.raises(ValueError, match="The channel name .* is not usable: take 1 to 200"):
        check_channel(name)
    with pytest.raises(ValueError, match="The event name .* is not usable"):
        check_event(name)


def read_as_a_browser(stream: bytes) -> list[tuple[str, str]]:
    """The events of a stream, by the rules of the HTML standard, section 9.2.6."""
    events: list[tuple[str, str]] = []
    name, data = "", list[str]()
    for line in re.split("\r\n|\r|\n", stream.decode()):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "" and data:
            events.append((name, "\n".join(data)))
            name, data = "", []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return events
