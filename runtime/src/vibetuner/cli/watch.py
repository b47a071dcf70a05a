"""``vibetuner tasks watch ID``: shows a task's progress on a terminal."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from vibetuner.cli.complaint import reader_is_gone
from vibetuner.cli.console import note_start, one_line, prepare_env_file
from vibetuner.cli.task_queue import open_databases
from vibetuner.config import get_settings, mask_url
from vibetuner.embedded import running_services
from vibetuner.errors import ServiceUnavailable, TaskNotFound
from vibetuner.loader import load_project
from vibetuner.redis.client import check
from vibetuner.tasks.inspect.queue import answering, this_queue, whole_id
from vibetuner.tasks.progress import ProgressState, watch_progress
from vibetuner.tasks.worker import open_queue
from vibetuner.timing import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WORDS = {
    "queued": "waiting",
    "running": "running",
    "complete": "done",
    "failed": "failed",
    "aborted": "aborted",
    "unknown": "unknown",
}

# How often Redis is pinged, and how long it has to answer.
LOOK_SECONDS = 2.0
SILENT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class View:
    """The output: ``show`` draws a state, ``say`` prints anything else."""

    show: Callable[[ProgressState], None]
    say: Callable[[str], None]


def show_until_end(task_id: str, *, as_json: bool) -> ProgressState:
    """Show each state of a task; return the last.

    Raises TaskNotFound if there is no such task.
    """
    # Before the loop runs: importing takes seconds on a busy machine, for which Redis would be
    # blamed, and Ctrl-C not heard. The project also has the classes of results.
    prepare_env_file()
    load_project()
    note_start()
    as_text = _as_bar if sys.stdout.isatty() else _as_lines
    with (_as_json if as_json else as_text)() as view:
        return asyncio.run(_watch(task_id, view))


async def _watch(task_id: str, view: View) -> ProgressState:
    last: ProgressState | None = None
    async with open_queue(), open_databases():
        async with answering():
            task_id = await whole_id(this_queue(), task_id)
        states = cast("AsyncGenerator[ProgressState, None]", watch_progress(task_id))
        # Closed before the queue: if left to the garbage collector, the relay would outlive the
        # queue.
        async with _looking_around(view.say), aclosing(states):
            with suppress(LookupError):
                async for state in states:
                    view.show(state)
                    last = state
    if last is None:
        raise TaskNotFound(
            f"There is no task {one_line(task_id)}, or its result is not kept any more. "
            "Take the id that enqueue() returned"
        )
    return last


@asynccontextmanager
async def _looking_around(say: Callable[[str], None]) -> AsyncIterator[None]:
    """Report in the block when Redis falls silent or is back.

    Raises BrokenPipeError if the reader of the output has gone.
    """
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(_look_around(say))
        yield
        looking.cancel()


async def _look_around(say: Callable[[str], None]) -> None:
    settings = running_services(get_settings())
    where = f"Redis at {mask_url(settings.redis_url or '')}"
    was_silent = False
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if reader_is_gone():
            raise BrokenPipeError
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                await check(settings)
            is_silent = False
        except (ServiceUnavailable, TimeoutError):
            is_silent = True
        if is_silent != was_silent:
            say(f"{where} {'does not answer; waiting for it' if is_silent else 'answers again'}")
        was_silent = is_silent


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _as_json() -> Iterator[View]:
    yield View(lambda state: print(state.to_json(), flush=True), _say)


@contextmanager
def _as_lines() -> Iterator[View]:
    said: set[str] = set()

    def show(state: ProgressState) -> None:
        line = _line(state)
        if line not in said:
            print(line, flush=True)
        said.clear()
        said.add(line)

    yield View(show, _say)


@contextmanager
def _as_bar() -> Iterator[View]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    with Progress(
        TextColumn("{task.fields[word]:<8}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[facts]}", markup=False, style="dim"),
    ) as progress:
        bar = progress.add_task("", total=None, word="waiting", facts="")
        yield View(lambda state: _draw(progress, bar, state), progress.console.out)


def _draw(progress: Progress, bar: TaskID, state: ProgressState) -> None:
    total = state.total or (1 if state.is_over else None)
    done = total if state.status == "complete" and total else state.done
    progress.update(bar, total=total, completed=done, word=WORDS[state.status], facts=_facts(state))
    if state.is_over:
        progress.stop_task(bar)


def _line(state: ProgressState) -> str:
    """Return one state in one line.

    >>> from vibetuner.tasks.progress import ProgressState, ProgressStatus
    >>> _line(ProgressState(task_id="a", status=ProgressStatus.RUNNING, done=5, total=10, eta=61.2))
    'running 50 % 5 of 10, 1 min 2 s left'
    """
    percent = "" if state.percent is None else f" {state.percent} %"
    return f"{WORDS[state.status]}{percent} {_facts(state)}".rstrip()


def _facts(state: ProgressState) -> str:
    counted = f"{state.done:,} of {state.total:,}" if state.total else f"{state.done:,}"
    facts = [
        counted if state.total or state.done else "",
        f"{state.rate:,.1f}/s" if state.rate else "",
        f"{duration(math.ceil(state.eta) * 1000)} left" if state.eta is not None else "",
        one_line(str(state.message)),
    ]
    return ", ".join(filter(None, facts))
