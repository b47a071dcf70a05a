"""Finds broken promises of `within()` and `once()`, and tasks that ran twice without a reason.

It reads only the story of the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from chaos.story import Fault, Run, Story, TaskStory
from chaos.tries import LOSSES

__all__ = ["broken_promises"]


# A run notes its end a little after the server has recorded it.
SLACK_SECONDS = 0.05


def broken_promises(story: Story, *, durable: bool = False) -> list[str]:
    """Return a sentence for each broken promise.

    Unless enqueues are ``durable``, a key may be lost with the primary that acknowledged it.
    """
    return [
        *_withdrawn(story), *_keys(story, durable=durable), *_done_twice(story),
        *_together(story), *_too_early(story), *_unheard(story), *_heard_twice(story),
    ]  # fmt: skip


def _withdrawn(story: Story) -> Iterator[str]:
    for task in story.tasks.values():
        if task.origin == "withdrawn" and task.runs:
            yield f"{task.kind} {task.task_id} ran, and its transaction was rolled back"


def _keys(story: Story, *, durable: bool) -> Iterator[str]:
    ran: defaultdict[str, set[str]] = defaultdict(set)
    for task in story.tasks.values():
        if not task.runs or (not durable and story.in_gap(task)):
            continue
        for line in task.lines:
            if key := line.get("key"):
                ran[key].add(task.task_id)
    for key, task_ids in ran.items():
        if len(task_ids) > 1:
            yield f"{len(task_ids)} tasks ran under the key {key}: {', '.join(sorted(task_ids))}"


def _done_twice(story: Story) -> Iterator[str]:
    """Yield a sentence for each task that was done twice without a reason.

    A task is done again if its worker, or Redis, was lost before the end was recorded. A worker on
    a busy machine may look lost, so that another begins the task while it runs.
    """
    for task in story.tasks.values():
        if task.completions > 1 and not _is_explained(task, story.faults):
            yield f"{task.kind} {task.task_id} was done {task.completions} times, nothing was lost"


def _together(story: Story) -> Iterator[str]:
    """Yield a sentence for each two unique tasks that ran at the same time without a reason."""
    groups: defaultdict[str, list[tuple[Run, str]]] = defaultdict(list)
    for task in story.tasks.values():
        group = next((line["group"] for line in task.lines if line.get("group")), None)
        if group:
            groups[group] += [(run, task.task_id) for run in task.runs]
    losses = [fault for fault in story.faults if fault.effect in LOSSES]
    for group, runs in groups.items():
        runs.sort(key=lambda one: one[0].began)
        for (run, task_id), (following, other) in pairwise(runs):
            # A worker that was killed has noted no end.
            overlaps = run.ended is not None and run.ended > following.began + SLACK_SECONDS
            if (
                task_id != other
                and overlaps
                and not any(
                    fault.hits(run.pid) and fault.within(run.began, following.began)
                    for fault in losses
                )
            ):
                yield f"{group}: {task_id} and {other} ran at the same time"


def _too_early(story: Story) -> Iterator[str]:
    """Yield a sentence for each task that ran before those that it follows were done."""
    for task in story.tasks.values():
        for line in task.lines:
            for first in line.get("after", ()) if task.runs else ():
                before = story.tasks.get(first)
                if line["strict"] and not (before and before.completions):
                    yield f"{task.kind} {task.task_id} ran, and {first} before it was not done"


def _unheard(story: Story) -> Iterator[str]:
    """Yield a sentence for each event that a browser has not heard, and no later reset covers.

    After a failover, events of the lost primary are gone.
    """
    heard = {note["event"] for note in story.heard}
    resets = [_position(note["event"]) for note in story.heard if note["kind"] == "reset"]
    for note in story.sent:
        event = note["event"]
        is_covered = event in heard or any(_position(event) <= end for end in resets)
        if not is_covered and not story.is_gap(note["at"]):
            yield f"the event {event} was sent, and not heard"


def _heard_twice(story: Story) -> Iterator[str]:
    heard = Counter(note["event"] for note in story.heard if note["kind"] != "reset")
    yield from (
        f"the event {event} was heard {count} times" for event, count in heard.items() if count > 1
    )


def _position(event: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event.split("-"))


def _is_explained(task: TaskStory, faults: list[Fault]) -> bool:
    runs = sorted(task.runs, key=lambda run: run.began)
    losses = [fault for fault in faults if fault.effect in LOSSES]
    return all(
        (run.ended or run.began) > following.began
        or any(fault.hits(run.pid) and fault.within(run.began, following.began) for fault in losses)
        for run, following in pairwise(runs)
        if run.outcome == "done"
    )
