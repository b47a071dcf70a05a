"""The story of a run, read from its journal: tasks with their runs, and the faults."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from chaos.journal import Note

__all__ = ["FORCED", "Effect", "Fault", "Run", "Story", "TaskStory", "tell"]

# A worker that did not stop after a signal, and had to be killed.
FORCED = "stop forced"

# The age up to which an acknowledged write may be missing on the replicas. It is long, because on
# busy cores the journal's line of the acknowledgement comes late.
LAG_SECONDS = 2.0

Effect = Literal["kill", "stop", "freeze", "outage", "failover", "none"]
Origin = Literal["accepted", "unknown", "withdrawn", "scheduled"]


@dataclass(slots=True)
class Run:
    """One run of a task's function, with the number of its try."""

    tries: int
    pid: int
    began: float
    ended: float | None = None
    outcome: str | None = None


@dataclass(slots=True)
class TaskStory:
    """Everything that the journal knows about a task.

    A task is *accepted* when ``enqueue`` or the commit returned, *unknown* when it raised,
    *withdrawn* when its transaction was rolled back, and *scheduled* when nobody enqueued it: a
    cron task. A task with a key may be accepted several times.
    """

    task_id: str
    kind: str
    origin: Origin = "scheduled"
    enqueued: float | None = None
    durable: bool = False
    runs: list[Run] = field(default_factory=list)
    aborts: list[str] = field(default_factory=list)
    lines: list[Note] = field(default_factory=list)

    @property
    def completions(self) -> int:
        """Return how often the task ran to its end."""
        return sum(run.outcome == "done" for run in self.runs)


@dataclass(slots=True)
class Fault:
    """A fault of processes, and its effect on the tasks that they run."""

    kind: str
    effect: Effect
    began: float
    ended: float
    pids: frozenset[int] = frozenset()

    def within(self, start: float, end: float) -> bool:
        """Return whether any part of the fault lies between two times."""
        return self.began <= end and self.ended >= start

    def hits(self, pid: int) -> bool:
        """Return whether the fault affects a process; an outage of Redis affects all."""
        return self.effect in {"outage", "failover"} or pid in self.pids


@dataclass(slots=True)
class Story:
    """A whole run; ``injected`` lists the planned faults, ``faults`` all of them.

    ``sent`` lists the acknowledged events, ``heard`` what browsers got, with resets.
    """

    tasks: dict[str, TaskStory] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    injected: list[Fault] = field(default_factory=list)
    exits: list[Note] = field(default_factory=list)
    sent: list[Note] = field(default_factory=list)
    heard: list[Note] = field(default_factory=list)

    def in_gap(self, task: TaskStory) -> bool:
        """Return whether a task was acknowledged by a primary that was lost right afterwards."""
        at = task.enqueued if task.enqueued is not None else min(run.began for run in task.runs)
        return self.is_gap(at)

    def is_gap(self, at: float) -> bool:
        """Return whether a write of this time may have been lost with its primary."""
        failovers = (fault for fault in self.faults if fault.effect == "failover")
        return any(fault.within(at, at + LAG_SECONDS) for fault in failovers)


def tell(notes: Iterable[Note]) -> Story:
    """Build the story from the lines of a journal."""
    teller = _Teller()
    for entry in sorted(notes, key=lambda entry: entry["at"]):
        teller.hear(entry)
    return teller.story


class _Teller:
    def __init__(self) -> None:
        self.story = Story()
        self._runs: dict[str, Run] = {}
        self._open: dict[int, Fault] = {}

    def hear(self, entry: Note) -> None:
        if "id" in entry:
            self._hear_of_task(self._task(entry), entry)
        else:
            self._hear_of_process(entry)

    def _task(self, entry: Note) -> TaskStory:
        unheard = TaskStory(entry["id"], entry.get("kind", "?"))
        task = self.story.tasks.setdefault(entry["id"], unheard)
        task.lines.append(entry)
        return task

    def _hear_of_task(self, task: TaskStory, entry: Note) -> None:
        at: float = entry["at"]
        match entry["what"]:
            case "accepted" | "unknown" | "withdrawn" as origin:
                # The task may begin before its producer notes that it was accepted.
                known = at if task.enqueued is None else task.enqueued
                task.durable = entry.get("durable", False)
                task.origin, task.enqueued = origin, min(known, *(r.began for r in task.runs), at)
            case "abort":
                task.aborts.append(entry["answer"])
            case "start":
                run = self._runs[entry["run"]] = Run(entry["tries"], entry["pid"], at)
                task.runs.append(run)
            case "end":
                run = self._runs[entry["run"]]
                run.ended, run.outcome = at, entry["outcome"]

    def _hear_of_process(self, entry: Note) -> None:
        at: float = entry["at"]
        match entry["what"]:
            case "fault":
                fault = Fault(
                    entry["kind"], entry["effect"], at, math.inf, frozenset(entry["pids"])
                )
                self._open[entry["number"]] = fault
                self.story.faults.append(fault)
                self.story.injected.append(fault)
            case "mended":
                self._open.pop(entry["number"]).ended = at
            case "suicide":
                self._lose("suicide", at, entry["pid"])
            case "sent":
                self.story.sent.append(entry)
            case "heard":
                self.story.heard.append(entry)
            case "exit":
                self.story.exits.append(entry)
                self._lose("exit", at, entry["worker"])

    def _lose(self, kind: str, at: float, pid: Any) -> None:
        self.story.faults.append(Fault(kind, "kill", at, at, frozenset([pid])))
