"""Slot: what a process has open right now."""

from __future__ import annotations

import pytest

from vibetuner.errors import NotConfigured
from vibetuner.state import Slot


def test_an_empty_slot_says_what_is_missing():
    """Its owner knows the words."""
    slot = Slot[str](lambda: NotConfigured("no client"))

    assert slot.peek() is None
    with pytest.raises(NotConfigured, match="no client"):
        slot.get()


def test_the_latest_holder_wins_whoever_leaves_first():
    """Lifespans of a test may end in any order."""
    slot = Slot[str](lambda: LookupError("empty"))
    first, second = slot.hold("first"), slot.hold("second")
    first.__enter__()
    second.__enter__()

    assert slot.get() == "second"
    first.__exit__(None, None, None)
    assert slot.get() == "second"
    second.__exit__(None, None, None)
    assert slot.peek() is None


def test_an_exception_empties_the_slot_too():
    """What is closed must not be handed out."""
    slot = Slot[str](lambda: LookupError("empty"))
    with pytest.raises(KeyError), slot.hold("open"):
        raise KeyError

    assert slot.peek() is None
