"""What does `within()` add to a commit, and how soon is a committed task enqueued?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from uuid import uuid4

from drain import make_project
from lab import ROOT, Figure, ask_child, workplace

from vibetuner.embedded import join

ROUNDS = 3
CHILD = Path(__file__).with_name("outbox_child.py")
DATABASES = ("SQLite", "PostgreSQL")
TUNE = """from vibetuner import VibetunerApp
from vibetuner.tasks.outbox.sql import Outbox

app = VibetunerApp(sql_models=[Outbox])
"""
# The words for each figure, and its limit.
WORDS = {
    "p50": ("insert an order, `within()`, commit: median", None),
    "p99": ("the same, 99 of 100", None),
    "to start": ("commit to the task's start on an idle worker, median", 10),
}
NOTE = (
    "*Beside* is the same order, committed first, and then `await receipt.enqueue(...)`, which "
    "loses the receipt if the process dies between the two. Both run in turn, fifty at a time. "
    "Each transaction is one order and its receipt, one after the other; while an order is placed, "
    "the row of the one before is read, handed on and deleted. PostgreSQL runs without fsync, "
    "SQLite with WAL; Redis, database and worker share this machine."
)

Runs = list[dict[str, float]]


def measure(*, beside: bool) -> list[Figure]:
    """Return medians of several processes, the databases in turn."""
    del beside
    folder = make_project("till", TUNE)
    seen: dict[str, Runs] = {name: [] for name in DATABASES}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for name, runs in seen.items():
                with database(name) as url:
                    runs.append(ask_child(CHILD, lease.urls["redis"], url, folder=folder))
    return [figure for name, runs in seen.items() for figure in figures(name, runs)]


def figures(database: str, runs: Runs) -> Iterator[Figure]:
    """Return the lines of one database."""
    for key, (words, limit) in WORDS.items():
        ours = [run[key] for run in runs]
        theirs = [run[f"{key} plain"] for run in runs if f"{key} plain" in run]
        yield Figure(
            what=f"{database}: {words}",
            ours=median(ours),
            spread=(min(ours), max(ours)),
            unit="ms",
            aim=f"{limit} ms" if limit else "",
            held=median(ours) < limit if limit else None,
            beside=median(theirs) if theirs else None,
            beside_spread=(min(theirs), max(theirs)) if theirs else None,
        )
    rates = [run["handed"] for run in runs]
    yield Figure(
        what=f"{database}: handed on by one process",
        ours=median(rates),
        spread=(min(rates), max(rates)),
        unit="tasks/s",
    )


@contextmanager
def database(name: str) -> Iterator[str]:
    """Yield the address of an empty database; PostgreSQL gets a server of its own."""
    if name == "SQLite":
        yield f"sqlite+aiosqlite:///{workplace() / uuid4().hex}.db"
        return
    sys.path.append(str(ROOT))  # the tests' helper starts one
    from tests.postgres import running_postgres

    with running_postgres() as (url, _):
        yield url
