"""A value of Progress that can't be shown is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from vibetuner.tasks.progress import Progress
from vibetuner.tasks.progress.report import RateMeter


@pytest.mark.parametrize("message", [None, 5, b"bytes", ["a"], object()])
async def test_a_progress_message_must_be_text(message: Any):
    """A message that is not text raises TypeError, and leaves the progress as it was."""
    with pytest.raises(TypeError, match=r"Progress\(message=\) takes text, not .*str\(\)"):
        Progress(message=message)
    progress = Progress(message="reading")
    if message is not None:
        with pytest.raises(TypeError, match="takes text"):
            await progress.update(message=message, done=5)
    assert (progress.message, progress.done) == ("reading", 0)


@pytest.mark.parametrize("number", ["7", 1.5, float("nan"), float("inf")])
async def test_a_progress_count_must_be_a_whole_number(number: Any):
    """A count that is not an int raises TypeError, and leaves the progress as it was."""
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
    """A count outside 0 to 2**63 - 1 raises ValueError, and leaves the progress as it was."""
    with pytest.raises(ValueError, match=r"Progress\(total=\) takes 0 to 2\*\*63 - 1, not "):
        Progress(total=number)
    progress = Progress(total=10)
    with pytest.raises(ValueError, match=r"Progress\(done=\)"):
        await progress.advance(number)
    with pytest.raises(ValueError, match=r"Progress\(total=\)"):
        await progress.update(total=number)
    assert (progress.done, progress.total) == (0, 10)


def test_a_step_back_is_no_negative_rate():
    """A step back gives no rate, as when the second phase of a task counts from zero."""
    meter = RateMeter()
    assert [meter.rate(at, done) for at, done in ((0, 0), (1, 10), (2, 0), (4, 6))] == [
        None,
        10.0,
        None,
        3.0,
    ]
