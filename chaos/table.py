"""Formats the ledger as text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import astuple, fields

from chaos.journal import Note
from chaos.ledger import Ledger, Lost, Row

__all__ = ["show"]

MANY = 20


def show(ledger: Ledger) -> str:
    """Return the whole ledger as text."""
    return "\n".join(_lines(ledger))


def _lines(ledger: Ledger) -> Iterator[str]:
    yield from _table(ledger)
    yield ""
    yield f"enqueue raised   {_counts(ledger.unknown)}"
    yield f"dead letters     {_counts(ledger.causes)}"
    yield f"  without cause  {len(ledger.without_cause)}"
    yield f"  not in MongoDB {ledger.not_moved}"
    yield f"two ends         {len(ledger.two_ends)} done, and with a dead letter too"
    yield f"faults           {_counts(ledger.faults)}"
    yield f"ended unasked    {_counts(ledger.exits)}"
    yield from _recovery(ledger)
    yield from _lost(ledger.lost)
    for rise in ledger.rises[:MANY]:
        yield f"{rise.why}: {rise.tries} of {rise.task_id}"
    yield from (f"broken: {text}" for text in ledger.broken[:MANY])
    yield ""
    yield _verdict(ledger)


def _table(ledger: Ledger) -> Iterator[str]:
    width = max(len("total"), *map(len, ledger.rows)) if ledger.rows else len("total")
    heads = [field.name for field in fields(Row)]
    yield " ".join([" " * width, *(f"{head:>8}" for head in heads)])
    for kind, row in [*ledger.rows.items(), ("total", ledger.total)]:
        cells = (
            f"{count or '·':>{max(8, len(head))}}"
            for count, head in zip(astuple(row), heads, strict=True)
        )
        yield " ".join([f"{kind:<{width}}", *cells])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _recovery(ledger: Ledger) -> Iterator[str]:
    yield "first task completed after a fault, seconds: median, longest"
    for kind, seen in sorted(ledger.recovery.items(), key=lambda item: -item[1].longest):
        yield f"  {kind:<24}{seen.times:>5} times {seen.median:>8.2f} {seen.longest:>8.2f}"


def _lost(lost: list[Lost]) -> Iterator[str]:
    for task in lost[:MANY]:
        yield f"lost: {task.kind} {task.task_id}, {task.stored}"
        for entry in task.lines:
            yield f"  {_line(entry)}"
    if lost[MANY:]:
        yield f"lost: and {len(lost) - MANY} more"


def _line(entry: Note) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(entry["at"])) + f"{entry['at'] % 1:.3f}"[1:]
    rest = {key: value for key, value in entry.items() if key not in {"at", "what", "id", "kind"}}
    return f"{at} {entry['what']} " + " ".join(f"{key}={value}" for key, value in rest.items())


def _verdict(ledger: Ledger) -> str:
    total = ledger.total
    if ledger.is_clean:
        gap = f", {total.gap} gone with a primary before its replicas had them" * bool(total.gap)
        return f"clean: {total.accepted} accepted, none lost{gap}, no try burnt"
    return (
        f"NOT CLEAN: {total.accepted} accepted, {total.lost} lost, {total.queued} still queued, "
        f"{total.burnt} tries burnt by planned stops, {len(ledger.broken)} promises broken"
    )
