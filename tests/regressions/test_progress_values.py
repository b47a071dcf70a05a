"""A value of Progress that can't be shown is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from vibetuner.tasks.progress import Progress


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
