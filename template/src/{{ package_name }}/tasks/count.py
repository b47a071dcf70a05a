"""Counting: a first task."""

import asyncio

from vibetuner.tasks.progress import Progress
from vibetuner.tasks.robust import robust_task


@robust_task(max_retries=3)
async def count(total: int) -> dict[str, int]:
    """Count in the background, while anybody can watch.

    An attempt that raises is retried, up to three attempts in all.
    """
    progress = Progress(total=total)
    for _ in range(total):
        await asyncio.sleep(0.1)
        await progress.advance()
    return {"counted": total}
