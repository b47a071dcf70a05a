"""Finds the tries that a task was charged without a reason, by the numbers of its runs.

The engine counts a try when it claims a task, and subtracts it again at a planned stop. So the
number rises from one run to the next by one if the first failed or was lost, and not at all if a
planned stop cut it short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from chaos.story import Effect, Fault, Run, TaskStory

__all__ = ["Rise", "rises"]

OWN_FAILURES = {"raised", "timeout"}
LOSSES: frozenset[Effect] = frozenset({"kill", "freeze", "outage", "failover"})


@dataclass(frozen=True, slots=True)
class Rise:
    """An increase of a task's tries beyond its failures and the losses of its workers."""

    task_id: str
    tries: int
    why: Literal["burnt", "unexplained"]


def rises(task: TaskStory, faults: Sequence[Fault], *, buried: Run | None = None) -> Iterator[Rise]:
    """Yield every increase that neither a failure nor a loss explains.

    ``buried`` stands for the claim that found the limit reached and ended the task as crashed.
    """
    runs = sorted(task.runs, key=lambda run: run.began)
    if task.enqueued is not None:
        # The first run has to be number 1.
        runs.insert(0, Run(0, 0, task.enqueued, task.enqueued, "raised"))
    if buried is not None:
        runs.append(buried)
    for run, following in pairwise(runs):
        excess = following.tries - run.tries - _fair(run, following, faults)
        if excess > 0 and not _lost_between(run, following, faults):
            yield Rise(task.task_id, excess, _blame(run, following, faults))


def _fair(run: Run, following: Run, faults: Sequence[Fault]) -> int:
    """Return the tries that a run may cost: one if it failed, or if its worker was lost."""
    if run.outcome in OWN_FAILURES:
        return 1
    losses = (fault for fault in faults if fault.effect in LOSSES and fault.hits(run.pid))
    return int(any(fault.within(run.began, following.began) for fault in losses))


def _lost_between(run: Run, following: Run, faults: Sequence[Fault]) -> bool:
    """Return whether a worker may have been lost that had just claimed the task.

    Such a try has left no line, so any loss between the two runs is taken as its reason.
    """
    gap = _end(run), following.began
    return any(fault.effect in LOSSES and fault.within(*gap) for fault in faults)


def _blame(run: Run, following: Run, faults: Sequence[Fault]) -> Literal["burnt", "unexplained"]:
    overtaken = run.ended is not None and run.ended > following.began
    if overtaken:  # the run was considered lost while it went on, which no stop causes
        return "unexplained"
    stops = [fault for fault in faults if fault.effect == "stop"]
    own = any(run.pid in f.pids and f.within(run.began, following.began) for f in stops)
    unseen = any(fault.within(_end(run), following.began) for fault in stops)
    return "burnt" if own or unseen else "unexplained"


def _end(run: Run) -> float:
    return run.began if run.ended is None else run.ended
