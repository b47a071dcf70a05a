"""What the commands about dead letters do, apart from how it looks."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TypeVar

import typer

from vibetuner.cli.letter_jobs import Job, Outcome
from vibetuner.cli.letters_view import counting
from vibetuner.errors import CommandError, DeadLetterError, VibetunerError
from vibetuner.loader import make_importable
from vibetuner.project import project_info
from vibetuner.tasks.dead_letters import (
    Cause,
    DeadLetter,
    count,
    discard,
    get,
    list_letters,
    open_dead_letters,
    retry,
)
from vibetuner.tasks.overview.when import parse_moment

__all__ = [
    "DISCARD",
    "RETRY",
    "Wanted",
    "fetch",
    "fetch_count",
    "fetch_one",
    "parse_cause",
    "parse_since",
    "run",
    "settle_all",
    "settle_some",
    "whole_id",
]

T = TypeVar("T")

PAGE = 100
# A short id is looked for among so many letters.
PAGES = 50
SHORTEST = 8
WHOLE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The filters that were typed."""

    task: str | None = None
    cause: Cause | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    open_only: bool = True

    @property
    def narrowed(self) -> bool:
        """Whether any of them leaves something out."""
        return any((self.task, self.cause, self.fingerprint, self.since))


class NotConfirmed(CommandError):  # noqa: N818 - what has happened
    """Many were meant, and nobody could be asked."""

    exit_code = 2


async def _retry(letter: str | DeadLetter, by: str | None) -> str | None:
    return await retry(letter, by=by)


async def _discard(letter: str | DeadLetter, by: str | None) -> None:
    await discard(letter, by=by)


RETRY = Job("retry", "retried", "vibetuner dead-letters list   (those that fail again)", _retry)
DISCARD = Job("discard", "discarded", "vibetuner dead-letters list --all   (the record)", _discard)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do ``work`` with everything open that dead letters need."""

    async def opened() -> T:
        # Arguments may be of the project's classes, and are read before they are enqueued again.
        make_importable(project_info())
        async with open_dead_letters():
            return await work

    try:
        return asyncio.run(opened())
    finally:
        work.close()


async def fetch(wanted: Wanted, limit: int) -> tuple[list[DeadLetter], int]:
    """The newest letters, and how many there are in all."""
    letters: list[DeadLetter] = []
    async for letter in _matching(wanted):
        letters.append(letter)
        if len(letters) == limit:
            break
    return letters, await count(**_filters(wanted))


async def fetch_count(wanted: Wanted) -> int:
    """How many match."""
    return await count(**_filters(wanted))


async def fetch_one(task_id: str) -> DeadLetter:
    """The letter of one task, whose id may be short."""
    return await get(await whole_id(task_id))


async def whole_id(text: str) -> str:
    """Return the id that begins with ``text`` among the newest letters; ``text`` if none does.

    Raises:
        DeadLetterError: several begin so.
    """
    if not SHORTEST <= len(text) < WHOLE:
        return text
    found: set[str] = set()
    after = None
    for _ in range(PAGES):
        page = await list_letters(open_only=False, limit=PAGE, after=after)
        found |= {one.task_id for one in page.letters if one.task_id.startswith(text)}
        if text in found or (after := page.next) is None:
            break
    if text in found or not found:
        return text
    if len(found) > 1:
        raise DeadLetterError(
            f"{len(found)} dead letters begin with {text}: {', '.join(sorted(found)[:3])}. "
            "Take more of the id"
        )
    return found.pop()


async def settle_some(job: Job, ids: list[str], *, yes: bool) -> Outcome:
    """Do the job for the tasks of these ids; ask on a terminal before any is discarded.

    Raises:
        NotConfirmed: the person at the terminal does not want it.
    """
    if job is DISCARD and not yes and sys.stdin.isatty():
        _confirm(job, len(ids))

    async def named() -> AsyncIterator[str]:
        for task_id in dict.fromkeys(ids):
            yield await whole_id(task_id)

    return await _settle(job, named(), total=len(ids))


async def settle_all(job: Job, wanted: Wanted, *, limit: int | None, yes: bool) -> Outcome:
    """Do the job for all that match, once a person has agreed to how many that are.

    Raises:
        NotConfirmed: there is no terminal to ask on, and no --yes.
    """
    total = await count(**_filters(wanted))
    total = total if limit is None else min(total, limit)
    if not total:
        return Outcome()
    if not yes:
        _confirm(job, total)
    return await _settle(job, _matching(wanted, limit=total), total=total)


def parse_since(text: str, now: datetime) -> datetime:
    """What was typed after --since, as a moment."""
    return parse_moment(text, now, "--since")


def parse_cause(text: str) -> Cause:
    """The cause of this name; raises CommandError with the names that there are."""
    try:
        return Cause(text.strip().lower().replace("-", "_"))
    except ValueError:
        raise CommandError(f"--cause takes one of {', '.join(Cause)}, not {text!r}") from None


async def _settle(job: Job, letters: AsyncIterator[str | DeadLetter], *, total: int) -> Outcome:
    outcome, person = Outcome(), _person()
    with counting(job.verb, total) as advance:
        try:
            async for letter in letters:
                task_id = letter if isinstance(letter, str) else letter.task_id
                try:
                    outcome.done[task_id] = await job.act(letter, person)
                except DeadLetterError as error:
                    outcome.refused[task_id] = str(error)
                advance()
        except VibetunerError as error:  # what was done until then is told all the same
            outcome.error = error
    return outcome


def _confirm(job: Job, total: int) -> None:
    what = f"{job.verb} {total} dead letter{'' if total == 1 else 's'}"
    if not sys.stdin.isatty():
        raise NotConfirmed(f"This would {what}. Pass --yes to do it without a terminal")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise NotConfirmed("Nothing was done")


async def _matching(wanted: Wanted, limit: int | None = None) -> AsyncIterator[DeadLetter]:
    after, left = None, limit
    while True:
        page = await list_letters(**_filters(wanted), limit=PAGE, after=after)
        for letter in page.letters[:left]:
            yield letter
        left = None if left is None else max(0, left - len(page.letters))
        after = page.next
        if after is None or left == 0:
            return


def _filters(wanted: Wanted) -> dict[str, Any]:
    return asdict(wanted)


def _person() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return None
