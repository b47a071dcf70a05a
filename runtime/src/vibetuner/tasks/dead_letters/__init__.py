"""Dead letters: the records of tasks that will not be retried, and functions for them.

::

    async with open_dead_letters():  # only in a script; a lifespan has it open
        page = await list_letters(task="send_webhook")
        for letter in page.letters:
            await retry(letter.task_id)
"""

from __future__ import annotations

from vibetuner.tasks.attempt import Cause
from vibetuner.tasks.dead_letters.api import (
    count,
    discard,
    get,
    groups,
    list_letters,
    open_dead_letters,
    retry,
)
from vibetuner.tasks.letters.letter import DeadLetter, Page

__all__ = [
    "Cause",
    "DeadLetter",
    "Page",
    "count",
    "discard",
    "get",
    "groups",
    "list_letters",
    "open_dead_letters",
    "retry",
]
