"""Implements the commands about dead letters; ``letters_view`` prints."""

from __future__ import annotations

import asyncio
import getpass
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import typer

from vibetuner.cli.console import parse_choice, prepare_env_file
from vibetuner.cli.letters_view import counting
from vibetuner.errors import CommandError, DeadLetterError, VibetunerError, counted
from vibetuner.loader import make_importable
from vibetuner.project import project_info
from vibetuner.tasks.dead_letters import Cause, DeadLetter, Page, get, open_dead_letters
from vibetuner.tasks.dead_letters.api import find, total
from vibetuner.tasks.dead_letters.bulk import Outcome, Verb, matching, settle
from vibetuner.tasks.letters.letter import Filters
from vibetuner.timing import parse_moment

T = TypeVar("T")


class NotConfirmed(CommandError):  # noqa: N818 - a state, as in a dialogue
    """Many letters, or a discard, and nobody has confirmed."""

    exit_code = 2


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` with the resources open that dead letters need."""

    async def opened() -> T:
        prepare_env_file()
        # Arguments may be of the project's classes, and are loaded before they are enqueued again.
        make_importable(project_info())
        async with open_dead_letters():
            return await work

    try:
        return asyncio.run(opened())
    finally:
        work.close()


def parse_filters(
    task: str | None,
    cause: str | None,
    fingerprint: str | None,
    since: str | None,
    *,
    open_only: bool = True,
) -> Filters:
    """Parse the filters of the command line.

    Raises:
        CommandError: there is no such cause, or ``since`` is not a time.
    """
    return Filters(
        task=task,
        cause=parse_choice(Cause, cause, "--cause") if cause is not None else None,
        fingerprint=fingerprint,
        since=parse_moment(since, datetime.now(UTC), "--since") if since is not None else None,
        open_only=open_only,
    )


async def fetch(filters: Filters, limit: int) -> tuple[Page, int]:
    """Return the newest letters as one page, and the number of all that match."""
    page = await find(filters, limit=limit)
    while page.next and len(page.letters) + len(page.unreadable) < limit:
        left = limit - len(page.letters) - len(page.unreadable)
        more = await find(filters, limit=left, after=page.next)
        page = Page(page.letters + more.letters, more.next, page.unreadable + more.unreadable)
    return page, await total(filters)


async def settle_some(verb: Verb, ids: list[str], *, yes: bool) -> Outcome:
    """Retry or discard the letters of these tasks; ask before discarding.

    Raises:
        NotConfirmed: letters would be discarded, and there is no terminal to ask on, and no --yes.
    """
    ids = list(dict.fromkeys(ids))
    if verb == "discard" and not yes:
        _confirm(verb, len(ids))

    async def named() -> AsyncIterator[str | DeadLetter]:
        for task_id in ids:
            yield await _find(task_id)

    return await _settle(verb, named(), count=len(ids))


async def settle_all(verb: Verb, filters: Filters, *, limit: int | None, yes: bool) -> Outcome:
    """Retry or discard all that match, once a person has confirmed their number.

    Raises:
        NotConfirmed: there is no terminal to ask on, and no --yes.
    """
    found = await total(filters)
    found = found if limit is None else min(found, limit)
    if not found:
        return Outcome()
    if not yes:
        _confirm(verb, found)
    return await _settle(verb, matching(filters, limit=found), count=found)


async def _find(task_id: str) -> str | DeadLetter:
    try:
        return await get(task_id)
    except DeadLetterError:  # reported when it is settled
        return task_id


async def _settle(verb: Verb, letters: AsyncIterator[str | DeadLetter], *, count: int) -> Outcome:
    outcome = Outcome()
    with counting(verb, count) as advance:
        try:
            async for one in settle(verb, letters, by=_person()):
                outcome.add(one)
                advance()
        except VibetunerError as error:  # the letters settled until then are reported all the same
            outcome.error = error
    return outcome


def _confirm(verb: Verb, count: int) -> None:
    what = f"{verb} {counted(count, 'dead letter')}"
    if not sys.stdin.isatty():
        raise NotConfirmed(f"This would {what}. Pass --yes to do it without a terminal")
    # On Ctrl-C, asyncio's handler only cancels the task, which the prompt blocks.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True, abort=True)
    except typer.Abort:
        print(file=sys.stderr)  # Ctrl-C and Ctrl-D leave the cursor behind the question
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


def _person() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return None
