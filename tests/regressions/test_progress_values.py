"""A value of Progress that can't be shown is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from vibetuner.tasks.progress import Progress
from vibetuner.tasks.progress.report import RateMeter


@pytest.mark.parametrize("message", [None, 5, b"bytes", ["a"], object()])
async def test_a_progress_message_must_be_text(message: Any):
    """It was stored, and whoever watched the task got an error or nothing."""
    with pytest.raises(TypeError, match=r"Progress\(message=\) takes text, not .*str\(\)"):
        Progress(message=message)
    progress = Progress(message="reading")
    if message is not None:
        with pytest.raises(TypeError, match="takes text"):
            await progress.update(message=message, done=5)
    assert (progress.message, progress.done) == ("reading", 0)


@pytest.mark.parametrize("number", ["7", 1.5, float("nan"), float("inf")])
async def test_a_progress_count_must_be_a_whole_number(number: Any):
    """Percent and rate are computed from it, also where the task can't see the error."""
    with pytest.raises(TypeError, match=r"Progress\(total=\) takes a whole number, not"):
        Progress(total=number)
    progress = Progress(total=10)
    with pytest.raises(TypeError, match=r"Progress\(steps=\)"):
        await progress.advance(number)
    with pytest.raises(TypeError, match=r"Progress\(done=\)"):
        await progress.update(done=number)
    assert (progress.done, progress.total) == (0, 10)


@pytest.mark.parametrize("number", [-1, 2**63, 10**400])
async def test_a_progress_count_must_be_in_range(number: int):
    """It was shown as 5 of -4, or failed the task where the time that is left was computed."""
    with pytest.raises(ValueError, match=r"Progress\(total=\) takes 0 to 2\*\*63 - 1, not "):
        Progress(total=number)
    progress = Progress(total=10)
    with pytest.raises(ValueError, match=r"Progress\(done=\)"):
        await progress.advance(number)
    with pytest.raises(ValueError, match=r"Progress\(total=\)"):
        await progress.update(total=number)
    assert (progress.done, progress.total) == (0, 10)


def test_a_step_back_is_no_negative_rate():
    """A task with two phases counts from zero again."""
    meter = RateMeter()
    assert [meter.rate(at, done) for at, done in ((0, 0), (1, 10), (2, 0), (4, 6))] == [
        None,
        10.0,
        None,
        3.0,
    ]
