"""Implements the commands about tasks, and prints tasks on a terminal, into a pipe, and as JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from vibetuner.cli.console import (
    Console,
    note_start,
    one_line,
    parse_choice,
    prepare_env_file,
    print_json,
    utc,
)
from vibetuner.config import get_settings
from vibetuner.errors import ServiceUnavailable, counted
from vibetuner.loader import load_project, make_importable
from vibetuner.project import project_info, worker_command
from vibetuner.tasks.inspect.model import ENDED, Filters, Page, Reason, Row, State, TaskDetail
from vibetuner.tasks.inspect.queue import answering, this_queue, whole_id
from vibetuner.tasks.inspect.stats import open_outbox
from vibetuner.tasks.registry import find_named, import_tasks
from vibetuner.tasks.worker import get_worker, open_queue
from vibetuner.timing import duration, parse_moment

if TYPE_CHECKING:
    from vibetuner.tasks.inspect.stats import Kind, Span, Stats

T = TypeVar("T")

SECONDS = 30.0

COLOURS = {
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.FAILED: "red",
    State.LOST: "red",
    State.ABORTED: "yellow",
}


def run(
    look: Callable[..., Awaitable[T]],
    *,
    of: str | None = None,
    with_project: bool = False,
    with_letters: bool = False,
) -> T:
    """Read the queue, with the resources open that this needs.

    Args:
        look: gets the queue and, if ``of`` is given, the whole id.
        of: an id as it was typed.
        with_project: load the project, for the names and functions of its tasks.
        with_letters: open the configured databases too; if they don't answer, use Redis alone.
    """
    prepare_env_file()
    make_importable(project_info())
    if with_project:
        load_project()
        import_tasks(project_info())
    note_start()
    return asyncio.run(_look(look, of, with_letters))


@asynccontextmanager
async def open_databases() -> AsyncIterator[None]:
    """Open the databases that are configured and answer, beside the open queue."""
    from vibetuner.tasks.dead_letters import open_dead_letters

    async with AsyncExitStack() as stack:
        with suppress(ServiceUnavailable):  # show what Redis knows
            await stack.enter_async_context(open_dead_letters())
        await stack.enter_async_context(open_outbox())
        yield


def parse_filters(
    states: list[str], task: str | None, since: str | None, until: str | None
) -> Filters:
    """Parse the filters of the command line; raise CommandError for an unknown state."""
    now = datetime.now(UTC)
    return Filters(
        states=frozenset(parse_choice(State, state, "--state") for state in states),
        name=task,
        since=parse_moment(since, now, "--since") if since else None,
        until=parse_moment(until, now, "--until") if until else None,
    )


def check_task_name(name: str) -> None:
    """Raise if the project has no task of this name.

    Raises TaskNotFound if there is none; the message suggests a similar name.
    """
    load_project()
    import_tasks(project_info())
    find_named(get_worker(), name)


def print_page(page: Page, *, as_json: bool = False) -> None:
    """Print one line for each task, and the next command to type.

    The JSON is ``{"tasks": [...], "next": ...}``.
    """
    if as_json:
        print_json({"tasks": [_plain_row(row) for row in page.rows], "next": page.next})
        return
    console = Console()
    if not page.rows and page.next is None:
        console.print("No tasks here.")
        return
    width = max([len(one_line(row.name)) for row in page.rows], default=0)
    for row in page.rows:
        console.print(utc(row.at) if row.at else " " * 20, style="dim", end="  ")
        console.print(one_line(row.task_id), end="  ")
        console.print(f"{one_line(row.name):<{width}}", style="bold", end="  ")
        console.print(f"{row.state.value:<9}", style=COLOURS.get(row.state), end="  ")
        console.print(_remark(row))
    if page.next:
        console.print(f"More:  --after '{page.next}'")
    if page.rows and sys.stdout.isatty():
        console.print(f"Next:  vibetuner tasks show {one_line(page.rows[0].task_id)}")


def print_detail(detail: TaskDetail, *, as_json: bool = False) -> None:
    """Print everything that is known about one task."""
    if as_json:
        values = asdict(detail)
        del values["row"]
        print_json({**_plain_row(detail.row), **values})
        return
    console = Console()
    for name, value in _facts(detail.row).items():
        if value:
            console.print_fact(name, value)
    console.print_fact("arguments", "" if detail.arguments else detail.note or "none")
    for name, value in (detail.arguments or {}).items():
        console.print(f"  {one_line(name)} = {one_line(value)}")
    for one in detail.failed_tries:
        when = utc(datetime.fromtimestamp(one.finished / 1000, UTC))
        console.print_fact(f"try {one.tries}", f"{when}  {one.error or 'requeued'}")
    if detail.result is not None:
        console.print_fact("result", detail.result)
    for name, ids in {"waits for": detail.parents, "needed by": detail.children}.items():
        if ids:
            console.print_fact(name, ", ".join(ids))
    console.print_traceback(detail.traceback)
    if sys.stdout.isatty():
        console.print(f"\nNext:  {_next_step(detail)}")


def print_reasons(row: Row, reasons: Sequence[Reason], *, as_json: bool = False) -> None:
    """Print the reasons why a task isn't running, each with its cure.

    The JSON is ``{"id": ..., "state": ..., "reasons": [{"text": ..., "cure": ...}]}``.
    """
    if as_json:
        print_json({**_plain_row(row), "reasons": [asdict(reason) for reason in reasons]})
        return
    console = Console()
    console.print(one_line(row.name or row.task_id), style="bold", end=" is ")
    console.print(row.state.value, style=COLOURS.get(row.state))
    for reason in reasons:
        console.print(f"- {one_line(reason.text)}")
        if reason.cure:
            console.print(f"  {one_line(reason.cure)}", style="green")


def print_stats(stats: Stats, *, as_json: bool = False) -> None:
    """Print counts, times and workers; in JSON, times are milliseconds."""
    if as_json:
        print_json(_plain_stats(stats))
        return
    console = Console()
    counts, dead = stats.counts, "unknown" if stats.dead is None else stats.dead
    console.print(
        f"{counts.running} running, {counts.queued} queued, {counts.scheduled} scheduled, "
        f"{dead} dead"
    )
    if stats.outbox is not None and stats.outbox.waiting:
        console.print(stats.outbox.text, style="red" if stats.outbox.is_stuck else None)
        if stats.outbox.is_stuck:
            console.print(f"  {stats.outbox.cure}", style="green")
    for span in (stats.hour, stats.day):
        console.print(f"last {span.name:<5}", style="dim", end=" ")
        console.print(
            f"{span.total('done')} done, {span.total('failed')} failed, "
            f"{span.total('retried')} retried, {span.total('aborted')} aborted;  "
            f"{_percentiles(span, 'wait')};  {_percentiles(span, 'run')}"
        )
    for one in counts.queues if len(counts.queues) > 1 else ():
        console.print(f"queue {one.name}", style="bold", end="  ")
        console.print(f"{one.queued} queued, {one.scheduled} scheduled", end="  ")
        read = (
            f"read by {counted(one.readers, 'live worker')}"
            if one.readers
            else "no live worker reads it"
        )
        console.print(read, style="red" if one.is_unread else None)
    for view in stats.workers:
        beat = view.beat
        console.print(f"worker {beat.id}", style="bold", end="  ")
        state = "live" if view.is_live else f"silent for {view.silent:.0f} s"
        console.print(state, style="green" if view.is_live else "red", end="  ")
        console.print(
            f"{beat.running} of {beat.concurrency} running, {one_line(beat.host)} pid {beat.pid}, "
            f"version {one_line(beat.version)}"
        )
        for fault in stats.faults.get(beat.id, ()):
            console.print(f"  {one_line(fault.text)}", style="red")
            console.print(f"  {one_line(fault.cure)}", style="green")
    if not any(view.is_live for view in stats.workers):
        start = worker_command(get_settings().environment)
        console.print(f"No live worker. Start one:  {start}")


async def _look(look: Callable[..., Awaitable[T]], of: str | None, with_letters: bool) -> T:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_queue())
        if with_letters:
            await stack.enter_async_context(open_databases())
        async with answering(SECONDS):
            queue = this_queue()
            return await (look(queue) if of is None else look(queue, await whole_id(queue, of)))


def _plain_row(row: Row) -> dict[str, Any]:
    values = asdict(row)
    return {"id": values.pop("task_id"), "task": values.pop("name"), **values}


def _plain_stats(stats: Stats) -> dict[str, Any]:
    return {
        **asdict(stats.counts),
        "dead": stats.dead,
        "outbox": stats.outbox and asdict(stats.outbox),
        "hour": _plain_span(stats.hour),
        "day": _plain_span(stats.day),
        "workers": [
            {
                **asdict(view.beat),
                "silent": view.silent,
                "live": view.is_live,
                "faults": [asdict(fault) for fault in stats.faults.get(view.beat.id, ())],
            }
            for view in stats.workers
        ],
    }


def _plain_span(span: Span) -> dict[str, Any]:
    return {
        **{what: span.total(what) for what in ("done", "failed", "aborted", "retried")},
        "wait_ms": {"p50": span.percentile("wait", 0.5), "p95": span.percentile("wait", 0.95)},
        "run_ms": {"p50": span.percentile("run", 0.5), "p95": span.percentile("run", 0.95)},
    }


def _percentiles(span: Span, kind: Kind) -> str:
    p50, p95 = (duration(span.percentile(kind, part)) for part in (0.5, 0.95))
    return f"{kind} p50 {p50}, p95 {p95}"


def _facts(row: Row) -> dict[str, str]:
    return {
        "id": row.task_id,
        "task": row.name,
        "state": row.state.value,
        "queue": row.queue,
        "enqueued": utc(row.created) if row.created else "",
        "due": utc(row.due) if row.due else "",
        "started": utc(row.started) if row.started else "",
        "ended": utc(row.finished) if row.finished else "",
        "waited": duration(_ms(row.waited)) if row.waited else "",
        "ran": duration(_ms(row.ran)) if row.ran else "",
        "tries": str(row.tries or ""),
        "worker": row.worker,
        "error": row.error,
    }


def _next_step(detail: TaskDetail) -> str:
    task_id = one_line(detail.row.task_id)
    if detail.is_dead:
        return f"vibetuner dead-letters retry {task_id}"
    if detail.row.state in ENDED:
        return "vibetuner tasks list"
    return f"vibetuner tasks why {task_id}   (or abort)"


def _remark(row: Row) -> str:
    if row.error:
        return one_line(row.error)[:100]
    if row.ran is not None:
        return f"in {duration(_ms(row.ran))}"
    return f"on {row.worker}" if row.worker else ""


def _ms(span: timedelta) -> float:
    return span / timedelta(milliseconds=1)
