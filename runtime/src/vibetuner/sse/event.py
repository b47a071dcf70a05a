"""An event with its id, and the rules for names of events and channels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from vibetuner.errors import shorten

#: the two numbers of an id in a Redis stream; they order a channel's events
Position = tuple[int, int]

#: the event that tells a browser that events it missed are no longer kept
RESET = "reset"

#: the id before a browser's position in the channel is known; whoever returns with it gets a reset
NOWHERE = "0-0"

NAME = re.compile(r"[^\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}")
ID = re.compile(r"(\d{1,20})-(\d{1,20})", re.ASCII)
LARGEST = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Event:
    """A name, data of any number of lines, and the id that a reconnecting browser sends back."""

    name: str
    data: str
    id: str = ""
    position: Position = field(init=False, repr=False, compare=False)
    frame: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", parse_id(self.id) or (0, 0))
        # Encoded once for all subscribers.
        object.__setattr__(self, "frame", self.encode())

    def encode(self) -> bytes:
        r"""Return the event as the bytes of a ``text/event-stream``.

        The format is that of the HTML standard, section 9.2.6, with a ``data`` field for each line.

        >>> Event("progress", "<p>1\r\n2</p>", "17-0").encode()
        b'id: 17-0\nevent: progress\ndata: <p>1\ndata: 2</p>\n\n'
        """
        lines = re.split(r"\r\n|\r|\n", self.data) if "\r" in self.data else self.data.split("\n")
        data = "".join([f"data: {line}\n" for line in lines])
        mark = f"id: {self.id}\n" if self.id else ""
        # A lone surrogate can't be encoded; it must not end the streams of all subscribers.
        return f"{mark}event: {self.name}\n{data}\n".encode(errors="replace")


def parse_id(text: str | None) -> Position | None:
    """Return the position of an id; None if it is not an id.

    >>> parse_id("1764028000000-3"), parse_id("first"), parse_id(None)
    ((1764028000000, 3), None, None)
    """
    match = ID.fullmatch(text or "")
    if match is None or max(position := (int(match[1]), int(match[2]))) > LARGEST:
        return None
    return position


def next_id(position: Position) -> str | None:
    """Return the smallest id after a position; None if there is none.

    >>> next_id((5, 0)), next_id((5, 2**64 - 1)), next_id((2**64 - 1, 2**64 - 1))
    ('5-1', '6-0', None)
    """
    milliseconds, number = position
    if number < LARGEST:
        return f"{milliseconds}-{number + 1}"
    return f"{milliseconds + 1}-0" if milliseconds < LARGEST else None


def idle_id(now: int) -> str:
    """Return the id for a channel that was silent until ``now``, in milliseconds.

    It is smaller than the id of any event, so a stream can be read from it.

    >>> idle_id(1764028000000)
    '0-1764028000000'
    """
    return f"0-{now}"


def is_name(name: object) -> bool:
    """Return whether a channel or an event may have this name."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def check_channel(channel: str) -> str:
    """Return ``channel``, or raise ValueError: 1 to 200 characters, no spaces or line breaks."""
    return _check("channel", channel)


def check_event(event: str) -> str:
    """Return ``event``, or raise ValueError: 1 to 200 characters, no spaces or line breaks."""
    return _check("event", event)


def _check(kind: str, name: Any) -> str:
    if not is_name(name):
        raise ValueError(
            f"The {kind} name {shorten(name, 80)} is not usable: take 1 to 200 characters "
            "without spaces, line breaks or control characters"
        )
    return str(name)
