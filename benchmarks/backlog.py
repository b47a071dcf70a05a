"""What do a million waiting tasks cost, and more worker processes?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from drain import make_project
from lab import Figure, ask_child, workplace

from vibetuner.embedded import join

ROUNDS = 5
MILLION = 1_000_000
FEW = 5_000
DRAINED = 3_000  # of each queue, in each round
LONG = 30_000
PROCESSES = (2, 4)
CHILD = Path(__file__).with_name("backlog_child.py")
NOTE = (
    "A million robust tasks, enqueued by two processes. Each round drains some thousands of them, "
    "then as many of a queue of 5,000, then some with one, two and four worker processes. "
    "Processor time is the workers' own, after their first 500 tasks; the server's is in the table "
    "*traffic*."
)


def measure(*, beside: bool) -> list[Figure]:
    """Drain both queues in turn; *beside* is the short queue, or a single process."""
    del beside
    folder = make_project()
    long: list[dict[str, float]] = []
    short: list[dict[str, float]] = []
    crowds: dict[int, list[dict[str, float]]] = {count: [] for count in PROCESSES}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        url, queue = lease.urls["redis"], new_queue()
        filled = sum(run["rate"] for run in together("fill", url, queue, MILLION // 2, 2, folder))
        for _ in range(ROUNDS):
            few = new_queue()
            ask_child(CHILD, "fill", url, few, FEW, folder=folder)
            short += together("work", url, few, DRAINED, 1, folder)
            long += together("work", url, queue, DRAINED, 1, folder)
            for count, runs in crowds.items():
                runs.append(crowd(together("work", url, queue, DRAINED, count, folder)))
        [steady] = together("work", url, queue, LONG, 1, folder)
    return [
        Figure(what="enqueued by `enqueue_many` in two processes", ours=filled, unit="tasks/s"),
        against("drained of 1,000,000, beside 5,000", "rate", "tasks/s", long, short, 0.8),
        against("processor time a task, beside 5,000", "cpu", "µs", long, short),
        memory(steady),
        *(
            against(f"{count} processes, beside 1: {words}", key, unit, runs, long)
            for count, runs in crowds.items()
            for words, key, unit in (
                ("processor time a task", "cpu", "µs"),
                ("drained", "rate", "tasks/s"),
            )
        ),
    ]


def against(  # noqa: PLR0913, PLR0917 - one line, whole
    what: str,
    key: str,
    unit: str,
    ours: list[dict[str, float]],
    others: list[dict[str, float]],
    least: float | None = None,
) -> Figure:
    """Return one line; ``least`` is the share of the other rate that ours should reach."""
    here, there = [[run[key] for run in runs] for runs in (ours, others)]
    return Figure(
        what=what,
        ours=median(here),
        spread=(min(here), max(here)),
        unit=unit,
        aim="" if least is None else f"{100 * least:.0f} % of the rate beside",
        held=None if least is None else median(here) >= least * median(there),
        beside=median(there),
        beside_spread=(min(there), max(there)),
    )


def memory(steady: dict[str, float]) -> Figure:
    """Compare a worker's memory at the end with that near its start."""
    return Figure(
        what=f"memory of the worker after {LONG:,} tasks of the million, beside after 500",
        ours=steady["after"],
        unit="MiB",
        aim="flat: 10 % more at the most",
        held=steady["after"] <= 1.1 * steady["before"],
        beside=steady["before"],
    )


def crowd(runs: list[dict[str, float]]) -> dict[str, float]:
    """Sum up the workers of one queue as if they were one."""
    cpu = sum(run["cpu"] for run in runs) / len(runs)
    return {"cpu": cpu, "rate": sum(run["rate"] for run in runs)}


def together(  # noqa: PLR0913, PLR0917 - one program's arguments
    what: str, url: str, queue: str, count: int, processes: int, folder: Path
) -> list[dict[str, Any]]:
    """Run processes that begin at the same time, and return the figures of each."""
    command = [sys.executable, CHILD, what, url, queue, str(count)]
    running = [
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(processes)
    ]
    answers = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"{command} failed")
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def new_queue() -> str:
    """Return an unused queue name."""
    return f"backlog-{uuid4().hex[:8]}"
