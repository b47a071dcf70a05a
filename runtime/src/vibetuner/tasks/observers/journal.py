"""Writes the journal: an entry with each recorded end, and the worker's heartbeats."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from json.encoder import encode_basestring as quote
from typing import TYPE_CHECKING, Any

from coredis.exceptions import RedisError

from vibetuner import __version__
from vibetuner.errors import first_line
from vibetuner.project import code_digest, find_root, project_info
from vibetuner.redis.functions import Functions
from vibetuner.redis.keys import MINUTE_MS, JournalKeys
from vibetuner.stored import dump_record
from vibetuner.tasks.attempt import Attempt, End
from vibetuner.tasks.journal import Beat, FailedTry, Started, bucket
from vibetuner.tasks.letters.plain import headline, plain_text, plain_traceback
from vibetuner.tasks.observers import Observer
from vibetuner.timing import now_ms

if TYPE_CHECKING:
    from streaq import Worker

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
WRITE_SECONDS = 0.25
LEAVE_SECONDS = 2.0
LONGEST_ERROR = 200
LONGEST_TRACEBACK = 4000

KEPT_SECONDS = 7 * 24 * 3600
BEAT_KEPT_SECONDS = 60
MINUTES_KEPT_SECONDS = 2 * 3600
QUARTERS_KEPT_SECONDS = 26 * 3600
# Surplus entries are trimmed in one step, once there are this many.
SLACK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest numbers to keep: of ended tasks, of those that failed, and of arguments."""

    ended: int = 100_000
    failed: int = 10_000
    payloads: int = 10_000


LIMITS = Limits()
NOTHING = '""'


class JournalObserver(Observer):
    """Forms the journal's entries, and writes a worker's heartbeat, counts and running tasks.

    The entry of a task that ended goes to Redis in the step that records its end. The rest is sent
    in one command, at most four times a second; if Redis does not take it, it is sent again. The
    journal is for people to look at: streaq's own keys decide.
    """

    def __init__(
        self,
        functions: Functions,
        worker: Worker[Any],
        keys: JournalKeys,
        limits: Limits = LIMITS,
        *,
        queues: Sequence[str] = (),
    ) -> None:
        self._functions = functions
        self._worker = worker
        self._keys = keys
        self._limits = limits
        self._queues = tuple(queues or worker.priorities)
        self._minutes: dict[int, Counter[str]] = {}
        self._names: set[str] = set()
        self._quoted: dict[str, str] = {}
        self._quoted_id = quote(worker.id)
        self._written: dict[str, Started] = {}
        self._born = now_ms()
        self._about: dict[str, Any] = {}
        self._happened = False

    def ending(self, attempt: Attempt) -> None:
        """Form the entry of an end, or of an attempt that will be followed by another."""
        end, error = attempt.end, attempt.error
        self._happened = True
        attempt.is_listed = self._written.pop(attempt.task_id, None) is not None
        if end is End.RETRYING or end is End.REQUEUED:
            reason = _one_line(error) if end is End.RETRYING and error else ""
            tried = FailedTry(
                attempt.tries, attempt.started, attempt.finished, self._worker.id, reason
            )
            attempt.entry = json.dumps(tried)
            if end is End.RETRYING:
                self._counts(attempt.finished)["retried"] += 1
            return
        name, counts = attempt.fn_name, self._counts(attempt.finished)
        self._names.add(name)
        reason, started = "", attempt.started
        if error is not None:
            reason = _one_line(error)
            if end is End.FAILED:
                attempt.trace = plain_traceback(error, LONGEST_TRACEBACK)
        if started:
            counts[f"r{bucket(attempt.finished - started)}"] += 1
            if attempt.tries <= 1:  # later attempts wait intentionally
                counts[f"w{bucket(started - attempt.queued)}"] += 1
        word = "" if end is None else str(end)
        counts[word] += 1
        # A JSON list, as journal.entry.Ended reads it.
        quoted = self._quoted.get(name) or self._quoted.setdefault(name, quote(name))
        attempt.entry = (
            f'[{quote(attempt.task_id)}, {quoted}, "{word}", '
            f"{attempt.created or attempt.queued}, {attempt.queued}, {started}, "
            f"{attempt.finished}, {attempt.tries}, {self._quoted_id}, "
            f"{quote(reason) if reason else NOTHING}]"
        )

    async def run(self, running: Iterable[Attempt]) -> None:
        """Write events as they happen, and a heartbeat every two seconds, until cancelled.

        Args:
            running: the tasks that the worker runs, read at each write.
        """
        next_beat = 0.0
        try:
            while True:
                beat = time.monotonic() >= next_beat
                if beat:
                    next_beat = time.monotonic() + BEAT_SECONDS
                if beat or self._happened:
                    await self.write(running, with_beat=beat)
                await asyncio.sleep(WRITE_SECONDS)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self.write((), leaving=True)

    async def write(
        self, running: Iterable[Attempt], *, with_beat: bool = False, leaving: bool = False
    ) -> None:
        """Write the events since the last write, and trim surplus entries.

        Args:
            with_beat: also write the heartbeat.
            leaving: the worker stops, and must no longer be listed.
        """
        minutes, names = self._minutes, self._names
        self._minutes, self._names = {}, set()
        happened, self._happened = self._happened or leaving, False
        now_running = {
            one.task_id: Started(
                one.task_id, one.fn_name, one.tries, one.started, one.queued, one.priority
            )
            for one in running
            if one.started and one.end is None
        }
        started = [one for name, one in now_running.items() if self._written.get(name) != one]
        stopped = [name for name in self._written if name not in now_running]
        content = {
            "worker": self._worker.id,
            "now": now_ms(),
            "kept": KEPT_SECONDS,
            "most": self._limits.ended,
            "most_failed": self._limits.failed,
            "most_payloads": self._limits.payloads,
            "slack": SLACK,
            "beat_kept": BEAT_KEPT_SECONDS,
            "names": sorted(names),
            "started": [[one.task_id, json.dumps(one)] for one in started],
            "stopped": stopped,
            "counts": self._kept_counts(minutes),
            "beat": dump_record(self._beat()) if with_beat else False,
            "queues": self._worker.priorities,
            "leaving": leaving,
            "crons": [name for name, task in self._worker.registry.items() if task.crontab],
            "happened": happened or bool(started or stopped),
        }
        try:
            await self._functions.call("journal", (self._keys.prefix,), [json.dumps(content)])
        except (RedisError, OSError) as error:
            logger.debug("could not write the journal: %s", first_line(error))
            self._names |= names
            self._happened = True
            for minute, counts in minutes.items():
                self._minutes.setdefault(minute, Counter()).update(counts)
        else:
            self._written = now_running

    def _counts(self, at: int) -> Counter[str]:
        """Return the counts of the minute of a time."""
        minute = at // MINUTE_MS * MINUTE_MS
        counts = self._minutes.get(minute)
        if counts is None:
            counts = self._minutes[minute] = Counter()
        return counts

    def _kept_counts(self, minutes: dict[int, Counter[str]]) -> dict[str, dict[str, object]]:
        kept: dict[str, dict[str, object]] = {}
        quarters: dict[str, Counter[str]] = {}
        for at, counts in minutes.items():
            kept[self._keys.minute(at)] = {"fields": counts, "kept": MINUTES_KEPT_SECONDS}
            quarters.setdefault(self._keys.quarter(at), Counter()).update(counts)
        for name, counts in quarters.items():
            kept[name] = {"fields": counts, "kept": QUARTERS_KEPT_SECONDS}
        return kept

    def _beat(self) -> Beat:
        self._about = self._about or self._describe()
        counters = {name: self._worker.counters[name] for name in sorted(self._worker.counters)}
        return Beat(at=now_ms(), running=self._worker.running(), counters=counters, **self._about)

    def _describe(self) -> dict[str, Any]:
        project = project_info() if find_root() else None
        return {
            "id": self._worker.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._born,
            "concurrency": self._worker.concurrency,
            "tasks": tuple(sorted(self._worker.registry)),
            "project": project.slug if project else "",
            "version": project.version if project else "",
            "code": code_digest(project) if project else "",
            "runtime": __version__,
            "queues": self._queues,
        }


def _one_line(error: BaseException) -> str:
    kind = type(error).__name__
    # Converted to text first: an error in __str__ must not lose the entry.
    text = next(iter(plain_text(error, LONGEST_TRACEBACK).splitlines()), "")
    return headline(kind, plain_text(text, LONGEST_ERROR))
