"""Counts the queued tasks and dead letters of tasks that are removed from the code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from vibetuner.cli.console import note_start
from vibetuner.config import EMBEDDED, get_settings
from vibetuner.errors import VibetunerError, counted
from vibetuner.project import project_root
from vibetuner.tasks.dead_letters import count, open_dead_letters
from vibetuner.tasks.inspect.listing import list_tasks
from vibetuner.tasks.inspect.model import Filters, State
from vibetuner.tasks.inspect.queue import this_queue

MOST = 10_000
WAITING = frozenset({State.QUEUED, State.SCHEDULED, State.RUNNING, State.LOST})


def ask_left_over(*tasks: str) -> dict[str, Any]:
    """Count queued tasks and dead letters; report them on stderr, or why they can't be counted.

    ``{"queued": None}`` means that the queue could not be reached.
    """
    url, found = get_settings().redis_url, {}
    try:
        # Embedded servers that have never run hold nothing, and need not start.
        if url and (url != EMBEDDED or (project_root() / ".vibetuner").is_dir()):
            note_start()
            found = asyncio.run(_count(tasks))
    except VibetunerError as error:
        print(f"note: queued and dead tasks were not looked for. {error}", file=sys.stderr)
        return {"queued": None, "dead": None}
    for task, (queued, dead) in found.items():
        if queued:
            print(
                f"note: {queued} of {task} still in the queue: a worker without it makes dead "
                "letters of them. Let them finish before you deploy",
                file=sys.stderr,
            )
        if dead:
            print(
                f"note: {counted(dead, 'dead letter')} of {task}. See:  "
                f"vibetuner dead-letters list --task {task}",
                file=sys.stderr,
            )
    return {
        "queued": sum(queued for queued, _ in found.values()),
        "dead": sum(dead for _, dead in found.values()),
    }


async def _count(tasks: Sequence[str]) -> dict[str, tuple[int, int]]:
    async with open_dead_letters():
        return {task: (await _count_waiting(task), await count(task=task)) for task in tasks}


async def _count_waiting(task: str) -> int:
    waiting, after = 0, None
    while waiting < MOST:  # a page may end early, and may hold fewer rows than the limit
        filters = Filters(states=WAITING, name=task)
        page = await list_tasks(this_queue(), filters, limit=MOST - waiting, after=after)
        waiting, after = waiting + len(page.rows), page.next
        if after is None:
            break
    return waiting
