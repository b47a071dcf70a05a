"""Acting on many dead letters, while a page shows how far it has come."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from functools import cache
from secrets import token_hex
from typing import Literal

from vibetuner.errors import DeadLetterError, TaskNotFound, VibetunerError, first_line
from vibetuner.tasks.dead_letters import DeadLetter, discard, list_letters, retry
from vibetuner.tasks.overview.queue import now_ms, this_queue

__all__ = ["Job", "find_job", "start_job"]

logger = logging.getLogger(__name__)

KEPT_SECONDS = 3600
PAGE = 100
WRITE_MS = 300
STALE_MS = 15_000
MOST_REASONS = 10


@dataclass(slots=True)
class Job:
    """What is done to how many letters, and how far that has come."""

    id: str
    verb: Literal["retry", "discard"]
    fingerprint: str | None
    total: int
    done: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)
    error: str = ""
    is_over: bool = False
    at: int = 0

    @property
    def is_stale(self) -> bool:
        """Whether the process that was at it is gone."""
        return not self.is_over and now_ms() - self.at > STALE_MS


async def start_job(
    verb: Literal["retry", "discard"], fingerprint: str | None, total: int, *, by: str
) -> str:
    """Begin, and return the job's id; what is stopped in the middle can be started anew."""
    job = Job(token_hex(8), verb, fingerprint, total)
    await _write(job)
    task = asyncio.create_task(_run(job, by))
    _running().add(task)
    task.add_done_callback(_running().discard)
    return job.id


async def find_job(job_id: str) -> Job:
    """A job of the last hour, whatever process is at it.

    Raises:
        TaskNotFound: there is none.
    """
    text = await this_queue().redis.get(_key(job_id))
    if text is None:
        raise TaskNotFound(f"There is no such job {job_id}, or it is an hour old. Start it anew")
    return Job(**json.loads(str(text)))


async def _run(job: Job, by: str) -> None:
    try:
        async for letter in _letters(job):
            await _act(job, letter, by)
            if now_ms() - job.at > WRITE_MS:
                await _write(job)
    except VibetunerError as error:
        job.error = str(error)
    except Exception as error:
        logger.exception("acting on dead letters failed")
        job.error = first_line(error)
    job.is_over = True
    await _write(job)


async def _act(job: Job, letter: DeadLetter, by: str) -> None:
    try:
        if job.verb == "retry":
            await retry(letter, by=by)
        else:
            await discard(letter, by=by)
        job.done += 1
    except DeadLetterError as error:
        job.refused += 1
        if len(job.reasons) < MOST_REASONS:
            job.reasons.append(str(error))


async def _letters(job: Job) -> AsyncIterator[DeadLetter]:
    """As many as were counted; those that die meanwhile are for the next time."""
    after, left = None, job.total
    while left > 0:
        found = await list_letters(fingerprint=job.fingerprint, limit=PAGE, after=after)
        for letter in found.letters[:left]:
            yield letter
        left -= len(found.letters)
        after = found.next
        if after is None:
            return


async def _write(job: Job) -> None:
    job.at = now_ms()
    await this_queue().redis.set(_key(job.id), json.dumps(asdict(job)), ex=KEPT_SECONDS)


def _key(job_id: str) -> str:
    return f"{this_queue().keys.prefix}journal:job:{job_id}"


@cache
def _running() -> set[asyncio.Task[None]]:
    """Held here, as an event loop forgets a task that nobody holds."""
    return set()
