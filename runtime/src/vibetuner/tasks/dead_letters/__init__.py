"""The records of tasks that will not be tried again, and what a person does with them.

::

    async with open_dead_letters():           # in a script; tasks and routes leave this line out
        page = await list_letters(task="send_webhook")
        for letter in page.letters:
            await retry(letter.task_id)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vibetuner.tasks.dead_letters.letter import Cause, DeadLetter

if TYPE_CHECKING:
    from vibetuner.tasks.dead_letters.api import (
        count,
        discard,
        get,
        groups,
        list_letters,
        open_dead_letters,
        retry,
    )
    from vibetuner.tasks.dead_letters.store import Page

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


def __getattr__(name: str) -> Any:
    # The functions need the worker, and the worker needs the letters: so they come when asked for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'store' if name == 'Page' else 'api'}"), name)
