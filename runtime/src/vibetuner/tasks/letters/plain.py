"""Turns values, errors and tracebacks into text and data that every store accepts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from vibetuner.errors import mask_secrets
from vibetuner.logs import format_traceback

LONGEST_TEXT = 1000
LONGEST_TRACEBACK = 20_000
LONGEST_VALUE = 50_000
MOST_VALUES = 1000
DEEPEST = 10


def plain(value: Any) -> Any:
    """Return a value that JSON and MongoDB both accept: numbers, texts, lists, dicts, else text.

    The result is for people to read, so long or deep values are cut short.

    >>> from datetime import UTC, datetime
    >>> plain({"at": datetime(2026, 1, 2, tzinfo=UTC), "ids": (1, 2)})
    {'at': '2026-01-02 00:00:00+00:00', 'ids': [1, 2]}
    """
    try:
        shown = _plain(value, DEEPEST, iter(range(MOST_VALUES)))
    except BaseException as error:  # noqa: BLE001 - somebody's class must not cost the letter
        note = f"can't be shown ({type(error).__name__})"
        return [note] if isinstance(value, list) else {"…": note}
    size = len(json.dumps(shown))
    if size <= LONGEST_VALUE:
        return shown
    # A list stays a list and a dict a dict, as readers of the record expect.
    note = f"too long to show: {size} characters"
    return [note] if isinstance(shown, list) else {"…": note} if isinstance(shown, dict) else note


def _plain(value: Any, depth: int, budget: Iterator[int]) -> Any:
    shown: Any
    match value:
        case None | bool():
            shown = value
        case int() if -(2**63) <= value < 2**63:
            shown = int(value)
        case float() if math.isfinite(value):
            return float(value)
        case list() | tuple() | dict() if not depth:
            return "…"
        case list() | tuple():
            return [_plain(item, depth - 1, budget) for item, _ in zip(value, budget, strict=False)]
        case dict():
            shown = {
                plain_text(name): _plain(item, depth - 1, budget)
                for (name, item), _ in zip(value.items(), budget, strict=False)
            }
        case _:
            shown = plain_text(value)
    return shown


def plain_text(value: Any, longest: int = LONGEST_TEXT) -> str:
    """Return ``str(value)``, cut in the middle, without characters that a store refuses.

    >>> plain_text("abcdefghij", longest=5)
    'ab…ij'
    >>> plain_text(chr(0) + chr(0xDCFF))
    '�?'
    """
    try:
        text = str(value)
    except BaseException as error:  # noqa: BLE001 - somebody's __str__ must not cost the letter
        text = f"a {type(value).__name__} ({type(error).__name__} in its __str__)"
    text = mask_secrets(text)  # before cutting, which could leave half of a secret
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest - longest // 2 - 1) :]}"
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def plain_traceback(error: BaseException, longest: int = LONGEST_TRACEBACK) -> str:
    """Return the traceback of an error as plain text; empty for one that was never raised."""
    if error.__traceback__ is None:
        return ""
    try:
        return plain_text(format_traceback(error), longest)
    except BaseException as failure:  # noqa: BLE001 - somebody's __str__ must not cost the record
        return f"can't be shown ({type(failure).__name__})"


def headline(error_type: str, error: str) -> str:
    """Return an error's class and message in one text.

    >>> headline("ValueError", "no money"), headline("MemoryError", "")
    ('ValueError: no money', 'MemoryError')
    """
    return f"{error_type}: {error}" if error else error_type
