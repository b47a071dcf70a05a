"""Retries or discards many dead letters in the background, while a page shows the progress."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import cache
from secrets import token_hex

from vibetuner.errors import TaskNotFound, VibetunerError, first_line
from vibetuner.stored import Count, Millis, dump_record, read_or_none
from vibetuner.tasks.dead_letters.bulk import Verb, matching, settle
from vibetuner.tasks.inspect.queue import now_ms, this_queue
from vibetuner.tasks.letters.letter import Filters

logger = logging.getLogger(__name__)

KEPT_SECONDS = 3600
WRITE_MS = 300
STALE_MS = 15_000
MOST_REASONS = 10


@dataclass(slots=True)
class Job:
    """A bulk retry or discard, and its progress."""

    id: str
    verb: Verb
    fingerprint: str | None
    total: Count
    done: Count = 0
    refused: Count = 0
    reasons: list[str] = field(default_factory=list)
    error: str = ""
    is_over: bool = False
    at: Millis = 0

    @property
    def is_stale(self) -> bool:
        """Return whether the process that runs it seems to be gone."""
        return not self.is_over and now_ms() - self.at > STALE_MS


async def start_job(verb: Verb, fingerprint: str | None, total: int, *, by: str) -> str:
    """Start a job and return its id; an interrupted job can simply be started again."""
    job = Job(token_hex(8), verb, fingerprint, total)
    await _write(job)
    task = asyncio.create_task(_run(job, by))
    _running().add(task)
    task.add_done_callback(_running().discard)
    return job.id


async def find_job(job_id: str) -> Job:
    """Return a job of the last hour, whichever process runs it.

    Raises:
        TaskNotFound: there is none.
    """
    job = read_or_none(Job, await this_queue().redis.get(this_queue().keys.job(job_id)))
    if job is None:
        raise TaskNotFound(
            f"There is no such job {job_id}, or it ended over an hour ago. Start it again"
        )
    return job


async def _run(job: Job, by: str) -> None:
    try:
        # Only as many as were counted: letters of tasks that fail during the job stay open.
        letters = matching(Filters(fingerprint=job.fingerprint), limit=job.total)
        async for one in settle(job.verb, letters, by=by):
            if one.refusal:
                job.refused += 1
                job.reasons = [*job.reasons, one.refusal][:MOST_REASONS]
            else:
                job.done += 1
            if now_ms() - job.at > WRITE_MS:
                await _write(job)
    except VibetunerError as error:
        job.error = str(error)
    except Exception as error:
        logger.exception("could not %s dead letters", job.verb)
        job.error = first_line(error)
    job.is_over = True
    await _write(job)


async def _write(job: Job) -> None:
    job.at = now_ms()
    await this_queue().redis.set(this_queue().keys.job(job.id), dump_record(job), ex=KEPT_SECONDS)


@cache
def _running() -> set[asyncio.Task[None]]:
    """Return the running jobs; without a reference, the event loop may drop a task."""
    return set()
