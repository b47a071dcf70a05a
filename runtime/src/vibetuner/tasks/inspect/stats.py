"""Numbers: ended tasks, waits and run times over an hour and a day, and rows in the outbox."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import Literal, NamedTuple

from vibetuner.config import get_settings
from vibetuner.errors import VibetunerError
from vibetuner.project import code_digest, find_root, project_info, worker_command
from vibetuner.redis.keys import MINUTE_MS, QUARTER_MS
from vibetuner.resources.slots import sql_engine
from vibetuner.stored import read_number
from vibetuner.tasks.dead_letters import count
from vibetuner.tasks.inspect.model import Counts, Reason, WorkerView, moment
from vibetuner.tasks.inspect.queue import Queue
from vibetuner.tasks.journal import bucket_ms
from vibetuner.tasks.outbox.row import ANSWER_SECONDS, open_stores
from vibetuner.timing import duration, now_ms

SpanName = Literal["hour", "day"]
Kind = Literal["wait", "run"]

# How long the store of dead letters has to count them.
LETTERS_SECONDS = 2.0
# A field of a histogram: r for run times, w for waits, then the bucket's number.
BUCKET = re.compile(r"[rw]\d{1,3}", re.ASCII)

# Longer than a worker's relay ever leaves a row waiting.
RELAY_SECONDS = 10.0


class Slice(NamedTuple):
    """The counts of a minute of the hour, or of a quarter of an hour of the day."""

    at: datetime | None
    counts: Mapping[str, int]

    def histogram(self, kind: Kind) -> Counter[int]:
        """Return the number of tasks in each bucket of their waits or runs."""
        found = {name: n for name, n in self.counts.items() if BUCKET.fullmatch(name)}
        return Counter({int(name[1:]): n for name, n in found.items() if name[0] == kind[0]})


@dataclass(frozen=True, slots=True)
class Span:
    """The last hour or the last day, in 60 or 96 slices, the oldest first."""

    name: SpanName
    slices: list[Slice] = field(default_factory=list)

    def each(self, what: str) -> list[int]:
        """Return the number of tasks done, failed, aborted or retried in each slice."""
        return [one.counts.get(what, 0) for one in self.slices]

    def total(self, what: str) -> int:
        """Return the number of tasks done, failed, aborted or retried."""
        return sum(self.each(what))

    def percentile(self, kind: Kind, part: float) -> float | None:
        """Return the longest wait or run of this share of the tasks, in ms; None if none ran."""
        whole: Counter[int] = Counter()
        for one in self.slices:
            whole.update(one.histogram(kind))
        return percentile(whole, part)

    def percentiles(self, kind: Kind, part: float) -> list[float | None]:
        """Return :meth:`percentile` of each slice."""
        return [percentile(one.histogram(kind), part) for one in self.slices]


class Stats(NamedTuple):
    """Counts, times and workers, as the overview and ``vibetuner tasks stats`` show them.

    ``dead`` is None if the store of dead letters does not answer, ``outbox`` if the project has
    none, or its database does not answer. ``faults`` has the workers that need somebody, by id.
    """

    counts: Counts
    dead: int | None
    outbox: Outbox | None
    hour: Span
    day: Span
    workers: list[WorkerView]
    faults: dict[str, list[Reason]]


async def read_stats(queue: Queue) -> Stats:
    """Read all numbers that the overview shows."""
    workers, dead = await queue.workers(), None
    with suppress(VibetunerError, TimeoutError):
        async with asyncio.timeout(LETTERS_SECONDS):
            dead = await count()
    return Stats(
        counts=await queue.counts(workers),
        dead=dead,
        outbox=await read_outbox(),
        hour=await read_span(queue, "hour"),
        day=await read_span(queue, "day"),
        workers=workers,
        faults=find_faults(workers),
    )


def find_faults(workers: Sequence[WorkerView]) -> dict[str, list[Reason]]:
    """Return what is wrong with live workers, by their ids: their clock, code or project."""
    if find_root() is None:
        return {}
    project = project_info()
    code = code_digest(project)
    found = {view.beat.id: view.faults(project.slug, code) for view in workers}
    return {name: faults for name, faults in found.items() if faults}


async def read_span(queue: Queue, name: SpanName) -> Span:
    """Read one span, in one round trip."""
    step, count = (MINUTE_MS, 60) if name == "hour" else (QUARTER_MS, 96)
    key = queue.keys.minute if name == "hour" else queue.keys.quarter
    last = now_ms() // step * step
    moments = [last - step * back for back in range(count - 1, -1, -1)]
    async with queue.redis.pipeline(transaction=False) as pipe:
        asked = [pipe.hgetall(key(at)) for at in moments]
    found = [await one for one in asked]
    return Span(
        name,
        [
            Slice(moment(at), {str(field): read_number(n) for field, n in counts.items()})
            for at, counts in zip(moments, found, strict=True)
        ],
    )


def percentile(histogram: Mapping[int, int], part: float) -> float | None:
    """Return the value below which this share of a histogram lies, to within a tenth.

    >>> percentile({1: 98, 41: 2}, 0.5) < 2, round(percentile({1: 90, 41: 10}, 0.95))
    (True, 1117)
    >>> percentile({}, 0.5) is None
    True
    """
    total = sum(histogram.values())
    seen = 0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen >= part * total:
            return bucket_ms(number)
    return None


@dataclass(frozen=True, slots=True)
class Outbox:
    """The rows that wait in the outboxes of the open databases.

    >>> Outbox(0, 0.0).is_stuck, Outbox(3, 60.0).is_stuck
    (False, True)
    """

    waiting: int
    oldest_seconds: float

    @property
    def is_stuck(self) -> bool:
        """Return whether no worker's relay runs, or Redis refuses the tasks."""
        return self.waiting > 0 and self.oldest_seconds > RELAY_SECONDS

    @property
    def text(self) -> str:
        """Return the state in words.

        >>> Outbox(3, 120.0).text
        '3 in the outbox, the oldest for 2 min 0 s: no worker hands them on'
        """
        if not self.waiting:
            return "0 in the outbox"
        stuck = ": no worker hands them on" if self.is_stuck else ""
        return (
            f"{self.waiting} in the outbox, the oldest for "
            f"{duration(self.oldest_seconds * 1000)}{stuck}"
        )

    @property
    def cure(self) -> str:
        """Return the cure if it is stuck."""
        start = worker_command(get_settings().environment)
        return f"look at Redis and at the workers' logs, or start one:  {start}"


async def read_outbox() -> Outbox | None:
    """Return the waiting rows; None if no open database has an outbox, or none answers."""
    try:
        stores = open_stores()
        async with asyncio.timeout(ANSWER_SECONDS):
            found = [await store.waiting() for store in stores]
    except Exception:  # noqa: BLE001 - a look at the queue goes on without
        return None
    if not found:
        return None
    times = [oldest for _, oldest in found if oldest is not None]
    now = datetime.now(UTC)
    oldest = max(((now - time).total_seconds() for time in times), default=0.0)
    return Outbox(sum(number for number, _ in found), max(oldest, 0.0))


@asynccontextmanager
async def open_outbox() -> AsyncIterator[None]:
    """Open the SQL database for a command, if one is configured and answers."""
    async with AsyncExitStack() as stack:
        settings = get_settings()
        if settings.database_url and sql_engine.peek() is None:
            # Imported here, so that a process loads only the drivers that it uses.
            sql = import_module("vibetuner.resources.sql")
            with suppress(VibetunerError, TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await stack.enter_async_context(sql.open_sql(settings))
        yield
