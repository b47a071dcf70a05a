"""Server-sent events, from the worker's process to a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx2
import pytest

from tests.processes import Command, Site, wait_until
from vibetuner.sse import broadcast


class Browser:
    """A reader of event streams, as a browser reads them."""

    def __init__(self) -> None:
        self.text = ""
        self.open = threading.Event()

    @property
    def events(self) -> list[tuple[str, str]]:
        """Return the events that have arrived: names and data."""
        blocks = [block for block in self.text.split("\n\n")[:-1] if "event: " in block]
        return [
            (
                block.split("event: ", 1)[1].split("\n", 1)[0],
                "\n".join(x[6:] for x in block.splitlines() if x.startswith("data: ")),
            )
            for block in blocks
        ]


@contextmanager
def listening(url: str) -> Iterator[Browser]:
    """Yield a browser that has opened the stream at ``url``."""
    browser, client = Browser(), httpx2.Client(timeout=60)

    def read() -> None:
        try:
            with client.stream("GET", url) as response:
                for text in response.iter_text():
                    browser.text += text
                    browser.open.set()
        except (httpx2.HTTPError, RuntimeError):
            pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert browser.open.wait(60), "the stream is open"
    yield browser
    client.close()


def test_what_a_task_broadcasts_arrives_in_the_browser(site: Site, worker_process: Command):
    """A task's events reach the browser in order, with their line breaks."""
    user = uuid4().hex
    with listening(f"{site.url}/events/upload/{user}") as browser:
        assert httpx2.post(f"{site.url}/uploads/{user}").status_code < 300
        wait_until(lambda: len(browser.events) == 3, what=lambda: browser.text)

    assert browser.events == [
        ("progress", "started"),
        ("progress", "half\nway"),
        ("complete", "<b>photo.jpg is done</b>"),
    ]


def test_a_stream_has_only_the_events_of_its_channel(site: Site, worker_process: Command):
    """A browser receives only the events of its own channel."""
    mine, theirs = uuid4().hex, uuid4().hex
    with (
        listening(f"{site.url}/events/upload/{mine}") as me,
        listening(f"{site.url}/events/upload/{theirs}") as them,
    ):
        assert httpx2.post(f"{site.url}/uploads/{mine}").status_code < 300
        wait_until(lambda: len(me.events) == 3, what=lambda: me.text)

    assert them.events == []


def test_an_endpoint_refuses_before_it_streams(site: Site):
    """An `sse_endpoint` that raises HTTPException answers with it, before a stream begins."""
    answer = httpx2.get(f"{site.url}/events/upload/stranger")

    assert answer.status_code == 403
    assert answer.json() == {"detail": "these are not your uploads"}


def test_a_stream_is_not_buffered_by_proxies_and_is_documented(site: Site):
    """A stream has headers against caching and buffering, and the API describes its type."""
    with httpx2.stream("GET", f"{site.url}/events/upload/x") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"

    described = httpx2.get(f"{site.url}/openapi.json").json()["paths"]
    operation = described["/events/upload/{user_id}"]["get"]
    assert "text/event-stream" in operation["responses"]["200"]["content"]


async def test_a_script_can_broadcast_too(site: Site, settings):
    """`broadcast()` in a script opens a connection for itself, and reaches the browser."""
    from vibetuner.config import using_settings

    user = uuid4().hex
    same_prefix = settings.model_copy(update={"redis_key_prefix": "tour-processes:"})
    with listening(f"{site.url}/events/upload/{user}") as browser:
        with using_settings(same_prefix):
            await broadcast(f"upload:{user}", "progress", data={"percent": 50})
        wait_until(lambda: browser.events, what=lambda: browser.text)

    assert browser.events == [("progress", '{"percent": 50}')]


@pytest.mark.parametrize("name", ["", "two words", "line\nbreak", "x" * 201])
async def test_a_name_that_would_break_the_stream_is_refused(name: str):
    """`broadcast()` refuses a name that is unusable for a channel or an event."""
    with pytest.raises(ValueError, match="not usable"):
        await broadcast(name, "progress")
    with pytest.raises(ValueError, match="not usable"):
        await broadcast("channel", name)
