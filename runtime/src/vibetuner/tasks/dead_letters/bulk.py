"""Retry or discard many dead letters, for the commands and the dashboard."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from vibetuner.errors import DeadLetterError, VibetunerError
from vibetuner.tasks.dead_letters.api import discard, find, retry
from vibetuner.tasks.letters.letter import DeadLetter, Filters

PAGE = 100

Verb = Literal["retry", "discard"]


@dataclass(frozen=True, slots=True)
class Settled:
    """A letter, and the id that a retry enqueued or the reason why nothing was done."""

    task_id: str
    new_id: str | None = None
    refusal: str = ""


@dataclass(slots=True)
class Outcome:
    """The settled letters with their new ids, and the refused ones with the reason.

    ``error`` is the error that stopped the work before the last letter.
    """

    done: dict[str, str | None] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    error: VibetunerError | None = None

    def add(self, one: Settled) -> None:
        """Add one letter."""
        if one.refusal:
            self.refused[one.task_id] = one.refusal
        else:
            self.done[one.task_id] = one.new_id


async def settle(
    verb: Verb, letters: AsyncIterable[str | DeadLetter], *, by: str | None
) -> AsyncIterator[Settled]:
    """Retry or discard each letter, given as a letter or as its task's id.

    Raises:
        ServiceUnavailable: Redis or MongoDB does not answer; the letters yielded so far are done.
    """
    async for letter in letters:
        task_id = letter if isinstance(letter, str) else letter.task_id
        try:
            if verb == "retry":
                yield Settled(task_id, await retry(letter, by=by))
            else:
                await discard(letter, by=by)
                yield Settled(task_id)
        except DeadLetterError as error:
            yield Settled(task_id, refusal=str(error))


async def matching(filters: Filters, *, limit: int | None = None) -> AsyncIterator[DeadLetter]:
    """Yield at most ``limit`` letters, newest first, without letters that are added meanwhile."""
    after, left = None, limit
    while left is None or left > 0:
        page = await find(filters, limit=PAGE, after=after)
        for letter in page.letters[:left]:
            yield letter
        left = None if left is None else left - len(page.letters)
        after = page.next
        if after is None:
            return
