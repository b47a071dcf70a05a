"""What is sent: an event with its id, and the names that it and its channel may have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "RESET",
    "Event",
    "Place",
    "check_channel",
    "check_event",
    "idle_id",
    "parse_id",
]

# In which order events were sent: the two numbers of an id in a Redis stream.
Place = tuple[int, int]

# Tells a browser that events are missing which nobody has any more.
RESET = "reset"

NAME = re.compile(r"[^\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}")
ID = re.compile(r"(\d{1,20})-(\d{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """A name, data of any number of lines, and the id that a browser comes back with."""

    name: str
    data: str
    id: str = ""
    place: Place = field(init=False, repr=False, compare=False)
    frame: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", parse_id(self.id) or (0, 0))
        # Encoded once, for everybody who listens.
        object.__setattr__(self, "frame", self.encode())

    def encode(self) -> bytes:
        r"""The event as the bytes of a ``text/event-stream``.

        The format is that of the HTML standard, section 9.2.6: one ``data`` field a line.

        >>> Event("progress", "<p>1\r\n2</p>", "17-0").encode()
        b'id: 17-0\nevent: progress\ndata: <p>1\ndata: 2</p>\n\n'
        """
        lines = re.split(r"\r\n|\r|\n", self.data) if "\r" in self.data else self.data.split("\n")
        data = "".join([f"data: {line}\n" for line in lines])
        mark = f"id: {self.id}\n" if self.id else ""
        # A lone surrogate has no bytes; it must not end the stream of everybody who listens.
        return f"{mark}event: {self.name}\n{data}\n".encode(errors="replace")


def parse_id(text: str | None) -> Place | None:
    """The place that an id stands for; None when it is no id.

    >>> parse_id("1764028000000-3"), parse_id("first"), parse_id(None)
    ((1764028000000, 3), None, None)
    """
    match = ID.fullmatch(text or "")
    if match is None or max(place := (int(match[1]), int(match[2]))) >= 2**64:
        return None
    return place


def idle_id(now: int) -> str:
    """The id of having heard all of a channel on which nothing was sent until ``now``, in ms.

    It is smaller than that of any event, so that a stream can be read from it on.

    >>> idle_id(1764028000000)
    '0-1764028000000'
    """
    return f"0-{now}"


def check_channel(channel: str) -> str:
    """Return ``channel``, or raise ValueError: 1 to 200 characters, no spaces or line breaks."""
    return _check("channel", channel)


def check_event(event: str) -> str:
    """Return ``event``, or raise ValueError: 1 to 200 characters, no spaces or line breaks."""
    return _check("event", event)


def _check(what: str, name: Any) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"The {what} name {_shown(name)} is not usable: take 1 to 200 characters without "
            "spaces, line breaks or control characters"
        )
    return str(name)


def _shown(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:80]}…"
