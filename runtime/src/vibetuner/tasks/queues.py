"""The queues of a project: the queue of each task, and the queues that a worker reads. Pure.

A queue is a priority in streaq: a stream, and a sorted set of delayed tasks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from vibetuner.errors import CommandError

#: The queues of a project that declares none, as in streaq.
USUAL = ("normal",)
#: A task without a queue goes into the first of these that the project has, else into its last.
DEFAULTS = ("default", "normal")
HEAVIEST = 1000


def default_queue(queues: Sequence[str]) -> str:
    """Return the queue of tasks that don't name one.

    >>> default_queue(["critical", "default", "bulk"]), default_queue(["high", "low"])
    ('default', 'low')
    """
    for name in DEFAULTS:
        if name in queues:
            return name
    return queues[-1]


def declared_queue(task: object) -> str:
    """Return the queue that a task's decorator names, its ``queue``; empty if it names none."""
    return getattr(task, "queue", "")


def list_queues(queues: Collection[str]) -> str:
    """Return the cure for an unknown queue's name."""
    return f"Take one of {', '.join(queues)}"


def start_reader(name: str, queues: Collection[str], worker: str) -> str:
    """Return the cure for a queue that no live worker reads.

    Args:
        queues: the queues that tune.py declares; empty if they are unknown.

    >>> start_reader("bulk", ["default"], "vibetuner run prod worker")
    'declare it again until it is empty: add it to queues=[...] in tune.py, and restart a worker'
    """
    if queues and name not in queues:
        return (
            "declare it again until it is empty: add it to queues=[...] in tune.py, and restart a "
            "worker"
        )
    return f"start one that does:  {worker} --queues {name}"


@dataclass(slots=True)
class ReadOrder:
    """The queues that a worker reads, and how a claim is divided among them.

    Without weights, a queue is read when those before it are empty. With weights, each queue has
    its share of every claim; the unused part goes to the others in their order.

    Args:
        weights: the weight of each queue; empty for strict order.

    >>> ReadOrder(["critical", "bulk"]).divide(8)
    ['critical', 8, 'bulk', 8]
    >>> order = ReadOrder(["critical", "bulk"], [3, 1])
    >>> order.divide(8)
    ['critical', 6, 'bulk', 2, 'critical', 8, 'bulk', 8]
    >>> [order.divide(1)[0] for _ in range(8)].count("bulk")
    2
    """

    names: Sequence[str]
    weights: Sequence[int] = ()
    _credits: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self._credits = [0.0] * len(self.weights)

    @classmethod
    def parse(cls, text: str) -> ReadOrder:
        """Read the value of ``--queues``.

        Raises:
            CommandError: ``text`` is malformed, names a queue twice, or gives weights to some only.

        >>> ReadOrder.parse("critical:6, bulk:1").weights
        [6, 1]
        """
        parts = [part.strip().partition(":") for part in text.split(",")]
        names = [name.strip() for name, _, _ in parts]
        marks = {mark for _, mark, _ in parts}
        if not all(names) or len(set(names)) < len(names):
            raise CommandError(
                f"--queues takes names with commas between, each once, not {text!r}. "
                "For example:  --queues critical,default"
            )
        if len(marks) > 1:
            raise CommandError(
                f"--queues takes a weight for each queue or for none, not {text!r}. "
                "For example:  --queues critical:6,bulk:1"
            )
        return cls(names, [_weight(text, weight) for _, _, weight in parts] if ":" in marks else [])

    def check(self, queues: Collection[str]) -> None:
        """Raise CommandError for a queue that the project does not declare."""
        for name in self.names:
            if name not in queues:
                raise CommandError(
                    f"--queues names {name!r}, which tune.py does not declare. "
                    f"{list_queues(queues)}"
                )

    def __str__(self) -> str:
        if not self.weights:
            return ", ".join(self.names)
        return ", ".join(f"{n}:{w}" for n, w in zip(self.names, self.weights, strict=True))

    def divide(self, count: int) -> list[Any]:
        """Return queues in the order of a claim, each followed by the most to claim from it."""
        rest = [part for name in self.names for part in (name, count)]
        if not self.weights:
            return rest
        total, left, shares = sum(self.weights), count, []
        for at, weight in enumerate(self.weights):
            self._credits[at] += count * weight / total
            shares.append(max(0, min(left, int(self._credits[at]))))
            left -= shares[at]
        by_credit = sorted(range(len(shares)), key=lambda at: shares[at] - self._credits[at])
        for at in by_credit[:left]:
            shares[at] += 1
        for at, share in enumerate(shares):
            self._credits[at] -= share
        given = zip(self.names, shares, strict=True)
        return [part for name, share in given if share > 0 for part in (name, share)] + rest


def _weight(text: str, weight: str) -> int:
    number = int(weight) if re.fullmatch(r"\s*\d{1,6}\s*", weight, re.ASCII) else 0
    if not 1 <= number <= HEAVIEST:
        raise CommandError(
            f"--queues takes whole weights from 1 to {HEAVIEST}, not {weight!r} in {text!r}"
        )
    return number
