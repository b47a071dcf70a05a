"""Slot, which holds an object that the process has open."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from vibetuner.errors import NotConfigured, WrongEventLoop
from vibetuner.state import Place, Slot


def test_an_empty_slot_raises_its_error():
    """An empty slot raises the error that its owner gave it."""
    slot = Slot[str](lambda: NotConfigured("no client"))

    assert slot.peek() is None
    with pytest.raises(NotConfigured, match="no client"):
        slot.get()


def test_the_latest_holder_wins_whoever_leaves_first():
    """A slot returns the latest object that is held, whichever block ends first."""
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
    """An exception in the block empties the slot, as its object is closed then."""
    slot = Slot[str](lambda: LookupError("empty"))
    with pytest.raises(KeyError), slot.hold("open"):
        raise KeyError

    assert slot.peek() is None


def test_what_works_in_one_loop_is_refused_in_another():
    """A slot with a name refuses its object in another event loop, but not outside any loop."""
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
    """`Place` accepts the loop that something was opened in, and refuses another loop."""
    here = Place()
    here.check("The queue")
    with ThreadPoolExecutor() as pool:
        pool.submit(Place).result().check("The queue")  # opened where no loop runs
        with pytest.raises(WrongEventLoop, match=r"anyio\.from_thread\.run\(function"):
            pool.submit(asyncio.run, _check(here)).result()


async def _check(place: Place) -> None:
    place.check("The queue")


def test_of_two_equal_objects_the_one_whose_block_ends_is_removed():
    """A slot keeps the outer of two equal objects, such as databases, when the inner block ends."""
    slot: Slot[list[int]] = Slot(lambda: LookupError("nothing"))
    outer, inner = [1], [1]
    with slot.hold(outer):
        with slot.hold(inner):
            assert slot.get() is inner
        assert slot.get() is outer
    assert slot.peek() is None
