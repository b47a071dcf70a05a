"""Slot: what a process has open right now."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from vibetuner.errors import NotConfigured, WrongEventLoop
from vibetuner.state import Slot, check_loop, running_loop


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
    """A closed client must not be given out."""
    slot = Slot[str](lambda: LookupError("empty"))
    with pytest.raises(KeyError), slot.hold("open"):
        raise KeyError

    assert slot.peek() is None


def test_what_works_in_one_loop_is_refused_in_another():
    """And handed out where no loop runs, as nothing can be awaited there."""
    bound, free = (
        Slot[str](lambda: LookupError("empty"), name="Redis"),
        Slot[str](lambda: LookupError("empty")),
    )

    async def hold() -> None:
        with bound.hold("a client"), free.hold("a setting"):
            assert bound.get() == bound.peek() == "a client"
            with ThreadPoolExecutor() as pool:
                assert pool.submit(bound.get).result() == "a client"
                assert pool.submit(asyncio.run, _read(free)).result() == "a setting"
                with pytest.raises(WrongEventLoop, match=r"^Redis is open in another event loop "):
                    pool.submit(asyncio.run, _read(bound)).result()

    asyncio.run(hold())


async def _read(slot: Slot[str]) -> str:
    return slot.get()


async def test_the_loop_that_owns_something_may_use_it():
    """Nor does anything without an owner belong to anybody."""
    check_loop(running_loop(), "The queue")
    check_loop(None, "The queue")
    with closing(asyncio.new_event_loop()) as other:
        with pytest.raises(WrongEventLoop, match=r"anyio\.from_thread\.run\(function"):
            check_loop(other, "The queue")


def test_of_two_that_are_equal_the_one_whose_block_ends_is_let_go():
    """As with two databases of PyMongo on one server: the outer one stays open."""
    slot: Slot[list[int]] = Slot(lambda: LookupError("nothing"))
    outer, inner = [1], [1]
    with slot.hold(outer):
        with slot.hold(inner):
            assert slot.get() is inner
        assert slot.get() is outer
    assert slot.peek() is None
