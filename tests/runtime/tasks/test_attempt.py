"""Cut attempts, and times that the queue stores."""

from __future__ import annotations

import asyncio
import logging

import pytest

from vibetuner.tasks.attempt import LAST_MOMENT, Attempt, Cut, moment


async def test_an_attempt_that_still_cleans_up_is_cancelled_again(
    caplog: pytest.LogCaptureFixture,
):
    """An attempt that hangs after its cut is cancelled again, and keeps its first reason."""
    caplog.set_level(logging.INFO)
    cleaning = asyncio.Event()

    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaning.set()
            await asyncio.Event().wait()

    attempt = Attempt("1")
    attempt.fn_name = "mail"
    attempt.cut(Cut.STOP)
    assert attempt.cut_by is None
    attempt.handle = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    attempt.cut(Cut.ABORT)
    attempt.cut(Cut.STOP)
    await cleaning.wait()
    assert attempt.cut_again is not None
    attempt.cut_again.cancel()

    for _ in range(2):
        attempt._cut_again()
        await asyncio.wait([attempt.handle])

    assert attempt.handle.cancelled()
    assert attempt.cut_by is Cut.ABORT
    assert [line for line in caplog.messages if "cancelling it again" in line] == [
        f"mail is still cleaning up 10 s after its {Cut.ABORT}; cancelling it again"
    ]


@pytest.mark.parametrize("value", [-1, LAST_MOMENT, float("inf"), float("nan"), "soon", None])
def test_a_time_out_of_range_is_refused(value: float):
    """A time that can't be converted to a date raises an error."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        moment(value)
    assert moment(LAST_MOMENT - 1) == LAST_MOMENT - 1
