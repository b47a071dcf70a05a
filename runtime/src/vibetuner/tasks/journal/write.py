"""Writes a batch into the journal: one command, however many tasks it tells of."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from vibetuner.redis.functions import Caller
from vibetuner.redis.keys import JournalKeys
from vibetuner.tasks.journal.batch import Batch

__all__ = ["KEPT_SECONDS", "LIMITS", "Limits", "write"]

KEPT_SECONDS = 7 * 24 * 3600
BEAT_KEPT_SECONDS = 60
TRIES_KEPT_SECONDS = 24 * 3600
MOST_TRIES = 20
MINUTES_KEPT_SECONDS = 2 * 3600
QUARTERS_KEPT_SECONDS = 26 * 3600
# What is trimmed goes in one piece, when so much has come together.
SLACK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many are kept at the most: ended tasks, those that failed, and those with arguments."""

    ended: int = 100_000
    failed: int = 10_000
    payloads: int = 10_000


LIMITS = Limits()


async def write(
    functions: Caller,
    prefix: str,
    batch: Batch,
    now: int,
    limits: Limits = LIMITS,
) -> None:
    """Write a batch down; ``now`` is in milliseconds."""
    keys = JournalKeys(prefix)
    content = {
        "worker": batch.worker,
        "now": now,
        "most": limits.ended,
        "most_failed": limits.failed,
        "most_payloads": limits.payloads,
        "most_tries": MOST_TRIES,
        "slack": SLACK,
        "tries_kept": TRIES_KEPT_SECONDS,
        "beat_kept": BEAT_KEPT_SECONDS,
        "started": [[task_id, one.to_json()] for task_id, one in batch.started.items()],
        "stopped": batch.stopped,
        "tries": [[task_id, one.to_json()] for task_id, one in batch.tries],
        "counts": _counts(keys, batch.minutes),
        "beat": batch.beat.to_json() if batch.beat else False,
        "leaving": batch.leaving,
        "crons": batch.crons,
    }
    told: list[str | bytes] = []
    for ended, payload, trace in batch.ended:
        told += (ended.task_id, ended.name, ended.outcome.value, ended.to_json(), trace, payload)
    values = [prefix, KEPT_SECONDS, json.dumps(content), *told]
    await functions.call("write_journal", (), values)


def _counts(keys: JournalKeys, minutes: dict[int, Counter[str]]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    quarters: dict[str, Counter[str]] = {}
    for at, counts in minutes.items():
        found[keys.minute(at)] = {"fields": counts, "kept": MINUTES_KEPT_SECONDS}
        quarters.setdefault(keys.quarter(at), Counter()).update(counts)
    for name, counts in quarters.items():
        found[name] = {"fields": counts, "kept": QUARTERS_KEPT_SECONDS}
    return found
