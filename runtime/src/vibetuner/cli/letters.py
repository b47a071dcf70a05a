"""Implements the commands about dead letters.

It prints them on a terminal, into a pipe, and as JSON.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import typer

from vibetuner.cli.console import (
    Console,
    note_start,
    one_line,
    parse_choice,
    prepare_env_file,
    print_json,
    utc,
)
from vibetuner.errors import CommandError, VibetunerError, counted
from vibetuner.loader import make_importable
from vibetuner.project import project_info
from vibetuner.tasks.dead_letters import (
    Cause,
    DeadLetter,
    Outcome,
    Page,
    Verb,
    find,
    matching,
    open_dead_letters,
    settle,
    total,
)
from vibetuner.tasks.letters.letter import Filters
from vibetuner.tasks.letters.plain import headline
from vibetuner.timing import parse_moment

T = TypeVar("T")

LONGEST_ERROR = 100
MOST_REFUSALS = 10
DONE: dict[Verb, str] = {"retry": "retried", "discard": "discarded"}
NEXT: dict[Verb, str] = {
    "retry": "vibetuner dead-letters list   (those that fail again)",
    "discard": "vibetuner dead-letters list --all   (the record)",
}


class NotConfirmed(CommandError):  # noqa: N818 - a state, as in a dialogue
    """Many letters, or a discard, and nobody has confirmed."""

    exit_code = 2


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` with the resources open that dead letters need."""

    async def opened() -> T:
        prepare_env_file()
        # Arguments may be of the project's classes, and are loaded before they are enqueued again.
        make_importable(project_info())
        note_start()
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

    Raises CommandError if there is no such cause, or ``since`` is not a time.
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
            yield task_id

    return await _settle(verb, named(), count=len(ids))


async def settle_all(verb: Verb, filters: Filters, *, limit: int | None, yes: bool) -> Outcome:
    """Retry or discard all that match, once a person has confirmed their number.

    Raises NotConfirmed if there is no terminal to ask on, and no --yes.
    """
    known = await total(filters)
    found = known if limit is None else min(known, limit)
    if not found:
        return Outcome()
    if not yes:
        _confirm(verb, found)
    return await _settle(verb, matching(filters, limit=found, known=known), count=found)


def print_list(page: Page, total: int, *, as_json: bool = False) -> None:
    """Print one line for each letter, newest first, and the next command to type.

    The JSON is ``{"count": ..., "letters": [...], "unreadable": [...]}``, without tracebacks.
    """
    if as_json:
        shown = [_plain(letter, "traceback") for letter in page.letters]
        print_json({"count": total, "letters": shown, "unreadable": page.unreadable})
        return
    console, letters = Console(), page.letters
    if not letters and not page.unreadable:
        console.print("No dead letters here.")
        return
    names = max([len(one_line(letter.task_name)) for letter in letters], default=0)
    causes = max([len(letter.cause.value) for letter in letters], default=0)
    for letter in letters:
        console.print(utc(letter.failed_at), style="dim", end="  ")
        console.print(one_line(letter.task_id), end="  ")
        console.print(f"{one_line(letter.task_name):<{names}}", style="bold", end="  ")
        console.print(f"{letter.cause.value:<{causes}}", style="yellow", end="  ")
        console.print(_error(letter), style=None if letter.is_open else "dim")
    for place in page.unreadable:
        console.print(f"{'':<20}  {one_line(place)}", end="  ")
        console.print("unreadable: damaged, or of a newer version", style="red")
    if total > len(letters):
        console.print(f"{len(letters)} of {total}; see more with:  --limit {total}")
    if letters and sys.stdout.isatty():
        first = one_line(letters[0].task_id)
        console.print(f"Next:  vibetuner dead-letters show {first}   (or retry, discard)")


def print_letter(letter: DeadLetter, *, as_json: bool = False) -> None:
    """Print everything that helps a person, but never the payload itself."""
    if as_json:
        print_json(_plain(letter))
        return
    console = Console()
    for name, value in _facts(letter).items():
        if value not in {None, ""}:
            console.print_fact(name, str(value))
    console.print_traceback(letter.traceback)
    if letter.is_open and sys.stdout.isatty():
        console.print(f"\nNext:  vibetuner dead-letters retry {one_line(letter.task_id)}")


def print_outcome(verb: Verb, outcome: Outcome, *, as_json: bool = False) -> None:
    """Print a summary, the reasons of refusals, and the next step.

    The JSON is ``{"retried": {id: new id}, "refused": {id: reason}}``.
    """
    console, done = Console(), DONE[verb]
    if as_json:
        print_json({done: outcome.done, "refused": outcome.refused})
        return
    if len(outcome.done) == 1:
        ((task_id, new_id),) = outcome.done.items()
        console.print(f"{task_id} {done}" + (f" as {new_id}" if new_id else ""))
    elif outcome.done:
        console.print(f"{len(outcome.done)} {done}")
    _print_refusals(outcome)
    if not outcome.done and not outcome.refused and outcome.error is None:
        console.print("Nothing matched.")
    elif outcome.done:
        console.print(f"Next:  {NEXT[verb]}")


@contextmanager
def counting(verb: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar that the yielded function advances; only on a terminal, and only for many."""
    if total == 1 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console as Screen
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Screen(stderr=True), transient=True) as progress:
        bar = progress.add_task(verb, total=total)
        yield lambda: progress.advance(bar)


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


def _print_refusals(outcome: Outcome) -> None:
    for reason in list(outcome.refused.values())[:MOST_REFUSALS]:
        print(f"error: {one_line(reason)}", file=sys.stderr)
    more = len(outcome.refused) - MOST_REFUSALS
    if more > 0:
        print(f"error: {more} more were refused; --json names them", file=sys.stderr)


def _error(letter: DeadLetter) -> str:
    text = one_line(headline(letter.error_type, letter.error))
    text = text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}…"
    return text if letter.is_open else f"{text}  [{one_line(letter.act)}]"


def _facts(letter: DeadLetter) -> dict[str, Any]:
    return {
        "task": letter.task_name,
        "id": letter.task_id,
        "cause": letter.cause.value,
        "error": headline(letter.error_type, letter.error),
        "tries": letter.tries,
        "failed": utc(letter.failed_at),
        "enqueued": letter.enqueued_at and utc(letter.enqueued_at),
        "arguments": _call(letter),
        "payload": f"{len(letter.payload)} bytes" if letter.payload else "gone",
        "fingerprint": letter.fingerprint,
        "queue": letter.queue,
        "worker": letter.worker_id,
        "acted on": one_line(letter.act) or None,
    }


def _call(letter: DeadLetter) -> str:
    given = [json.dumps(value, ensure_ascii=False) for value in letter.args]
    given += [f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in letter.kwargs.items()]
    return ", ".join(given) or "none"


def _plain(letter: DeadLetter, *left_out: str) -> dict[str, Any]:
    values = {**letter.to_document(), "payload_bytes": len(letter.payload)}
    return {key: value for key, value in values.items() if key not in {"payload", *left_out}}
