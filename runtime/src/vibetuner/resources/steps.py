"""Steps of a database's driver that go on if their caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from anyio import CancelScope

# Longer than SQLite waits for a lock, and shorter than a cancelled task may clean up.
PATIENCE = 8.0

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in a task of its own, which goes on if the caller is cancelled.

    The cancellation is raised afterwards, at the caller's next await; if ``work`` takes 8 seconds
    longer, it is cancelled, too.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                if cancelled is None:
                    asyncio.get_running_loop().call_later(PATIENCE, task.cancel)
                cancelled = error
    caller = asyncio.current_task()
    if cancelled is not None and caller is not None:
        caller.uncancel()
        caller.cancel(*cancelled.args)
    return task.result()
