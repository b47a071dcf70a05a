"""Judges a run: how each task ended, which were lost, which tries were counted wrongly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

from chaos.journal import Note
from chaos.promises import broken_promises
from chaos.story import Fault, Run, Story, TaskStory, tell
from chaos.tries import Rise, rises
from vibetuner.tasks.dead_letters import Cause

__all__ = ["Ledger", "Letter", "Lost", "Recovery", "Row", "Stored", "judge"]

Fate = Literal["done", "dead", "aborted", "queued", "lost", "gap"]
Result = Literal["done", "failed", "aborted"]

CAUSES = {cause.value for cause in Cause}
LAST_LINES = 4
# No promise covers such a task.
UNCOUNTED = {"unknown", "withdrawn"}


@dataclass(frozen=True, slots=True)
class Letter:
    """The relevant fields of a dead letter; ``at`` in seconds of the epoch."""

    task_name: str
    cause: str | None
    tries: int
    at: float


@dataclass(frozen=True, slots=True)
class Stored:
    """The contents of Redis and MongoDB once nothing runs."""

    queued: frozenset[str] = frozenset()
    results: Mapping[str, Result] = field(default_factory=dict)
    letters: Mapping[str, Letter] = field(default_factory=dict)
    letters_not_moved: int = 0
    left_over: frozenset[str] = frozenset()


@dataclass(slots=True)
class Row:
    """The tasks of one kind: each accepted one is in one of the next six columns.

    A task in the *gap* was acknowledged by a primary that was lost before its replicas had it.
    """

    accepted: int = 0
    done: int = 0
    dead: int = 0
    aborted: int = 0
    queued: int = 0
    lost: int = 0
    gap: int = 0
    twice: int = 0
    burnt: int = 0
    unexplained: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """An accepted task without an end, and its last known event."""

    task_id: str
    kind: str
    stored: str
    lines: list[Note]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the end of a fault to the first task completed after it."""

    times: int
    median: float
    longest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The outcome of a run."""

    rows: dict[str, Row]
    total: Row
    unknown: dict[str, int]
    lost: list[Lost]
    rises: list[Rise]
    broken: list[str]
    two_ends: list[str]
    causes: dict[str, int]
    without_cause: list[str]
    not_moved: int
    faults: dict[str, int]
    exits: dict[str, int]
    recovery: dict[str, Recovery]

    @property
    def is_clean(self) -> bool:
        """Return whether each accepted task ended, no stop cost a try, and every promise held."""
        total = self.total
        ended = total.accepted > 0 and total.lost == total.queued == total.burnt == 0
        return ended and not self.broken

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger as a dict, for scripts."""
        return {"clean": self.is_clean, **asdict(self)}


def judge(notes: Iterable[Note], stored: Stored, *, durable: bool = False) -> Ledger:
    """Return the ledger, from the journal and from the stores.

    With ``durable``, no gap explains the loss of a task that was accepted.
    """
    story = tell(notes)
    tasks = _with_unheard(story, stored)
    counted = [task for task in tasks.values() if task.origin not in UNCOUNTED]
    charged = {task.task_id: _rises(task, story, stored) for task in counted}
    rows: dict[str, Row] = {}
    fates = {task.task_id: _counted_fate(task, story, stored, durable) for task in counted}
    for task in counted:
        row = rows.setdefault(_kind(task), Row())
        _enter(task, row, fates[task.task_id], charged[task.task_id])
    letters = stored.letters
    return Ledger(
        rows=dict(sorted(rows.items())),
        total=_total(rows.values()),
        unknown=_unknown(tasks.values(), stored),
        lost=[_lost(task, stored) for task in counted if fates[task.task_id] == "lost"],
        rises=[rise for found in charged.values() for rise in found],
        broken=[*broken_promises(story, durable=durable), *_untidy(story, counted, stored)],
        two_ends=[task.task_id for task in counted if _has_two_ends(task, stored)],
        causes=dict(Counter(str(letter.cause) for letter in letters.values()).most_common()),
        without_cause=[name for name, letter in letters.items() if letter.cause not in CAUSES],
        not_moved=stored.letters_not_moved,
        faults=dict(Counter(fault.kind for fault in story.injected).most_common()),
        exits=dict(Counter(f"{e['name']} with code {e['code']}" for e in story.exits)),
        recovery=_recovery(story),
    )


def _with_unheard(story: Story, stored: Stored) -> dict[str, TaskStory]:
    """Add the cron runs that left only a dead letter."""
    unheard = {
        task_id: TaskStory(task_id, letter.task_name)
        for task_id, letter in stored.letters.items()
        if task_id not in story.tasks
    }
    return story.tasks | unheard


def _kind(task: TaskStory) -> str:
    return f"{task.kind} (cron)" if task.origin == "scheduled" else task.kind


def _fate(task: TaskStory, stored: Stored) -> Fate:
    result = stored.results.get(task.task_id)
    if task.completions or result == "done":
        return "done"
    if task.task_id in stored.letters:
        return "dead"
    if result == "aborted" or "yes" in task.aborts:
        return "aborted"
    return "queued" if task.task_id in stored.queued else "lost"


def _counted_fate(task: TaskStory, story: Story, stored: Stored, durable: bool) -> Fate:
    fate = _fate(task, stored)
    # A run of a schedule is never durable.
    if fate != "lost" or ((durable or task.durable) and task.origin == "accepted"):
        return fate
    return "gap" if story.in_gap(task) else "lost"


def _has_two_ends(task: TaskStory, stored: Stored) -> bool:
    done = task.completions or stored.results.get(task.task_id) == "done"
    return bool(done) and task.task_id in stored.letters


def _rises(task: TaskStory, story: Story, stored: Stored) -> list[Rise]:
    letter, buried = stored.letters.get(task.task_id), None
    if letter is not None and letter.cause == Cause.CRASHED:
        buried = Run(letter.tries + 1, 0, letter.at)
    return list(rises(task, story.faults, buried=buried))


def _enter(task: TaskStory, row: Row, fate: Fate, charged: list[Rise]) -> None:
    row.accepted += 1
    setattr(row, fate, getattr(row, fate) + 1)
    row.twice += task.completions > 1
    row.burnt += sum(rise.tries for rise in charged if rise.why == "burnt")
    row.unexplained += sum(rise.tries for rise in charged if rise.why == "unexplained")


def _total(rows: Iterable[Row]) -> Row:
    total = Row()
    for row in rows:
        for name, count in asdict(row).items():
            setattr(total, name, getattr(total, name) + count)
    return total


def _unknown(tasks: Iterable[TaskStory], stored: Stored) -> dict[str, int]:
    """Count the states of tasks whose ``enqueue`` raised; no promise covers them."""
    unknown = [task for task in tasks if task.origin == "unknown"]
    fates = Counter[str](_fate(task, stored) for task in unknown if task.runs)
    never = sum(not task.runs for task in unknown)
    return {"all": len(unknown), "never begun": never, **fates}


def _untidy(story: Story, tasks: Iterable[TaskStory], stored: Stored) -> Iterator[str]:
    """Yield a sentence for each task without a result, and each key that no task needs.

    After a failover both may be: the new primary has not got the last writes.
    """
    if any(fault.effect == "failover" for fault in story.faults):
        return
    for task in tasks if stored.results else ():
        if task.origin == "accepted" and task.task_id not in stored.results:
            yield f"{task.kind} {task.task_id} has no result"
    yield from (f"left in Redis: {one}" for one in sorted(stored.left_over))


def _lost(task: TaskStory, stored: Stored) -> Lost:
    result = stored.results.get(task.task_id)
    known = f"result: {result}, no dead letter" if result else "no trace"
    return Lost(task.task_id, task.kind, known, task.lines[-LAST_LINES:])


def _recovery(story: Story) -> dict[str, Recovery]:
    ends = sorted(
        run.ended
        for task in story.tasks.values()
        for run in task.runs
        if run.outcome == "done" and run.ended is not None
    )
    times: dict[str, list[float]] = {}
    for fault in story.injected:
        if (seconds := _recovered_after(fault, ends)) is not None:
            times.setdefault(fault.kind, []).append(seconds)
            times.setdefault("any", []).append(seconds)
    return {kind: Recovery(len(all_), median(all_), max(all_)) for kind, all_ in times.items()}


def _recovered_after(fault: Fault, ends: list[float]) -> float | None:
    return next((end - fault.ended for end in ends if end > fault.ended), None)
