"""Writes the log lines of tasks: one line for each end, never a value of an argument."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from streaq.types import StreaqCancelled

from vibetuner.errors import first_line
from vibetuner.logs import TaskLogger
from vibetuner.tasks.attempt import Attempt, Cause, End
from vibetuner.tasks.observers import Observer
from vibetuner.tasks.payload import OTHER_KEY, OTHER_KEY_CURE
from vibetuner.tasks.retry import policy_of
from vibetuner.timing import duration

logger = logging.getLogger(__name__)

# A task that runs longer than this gets a line for its start, too.
ANNOUNCED_AFTER_MS = 1000


class LogObserver(Observer):
    """Writes one line for a finished task.

    At DEBUG, each start gets a line; otherwise only tasks that still run after a second.
    """

    def __init__(self) -> None:
        self._quick = TaskLogger(logger)

    def started(self, attempt: Attempt) -> None:
        """Report each start at DEBUG."""
        if logger.isEnabledFor(logging.DEBUG):
            self._announce(attempt, logging.DEBUG)

    def sweep(self, running: Iterable[Attempt], now: int) -> None:
        """Report the start of tasks that have been running for a second; called once a second."""
        for attempt in running:
            if attempt.started and now - attempt.started >= ANNOUNCED_AFTER_MS:
                self._announce(attempt, logging.INFO)

    def ended(self, attempt: Attempt) -> None:
        """Report the end of an attempt."""
        if attempt.is_silent:
            return
        name, took = attempt.fn_name, duration(attempt.finished - attempt.started)
        if attempt.end is End.DONE:
            self._quick.info(attempt.task_id, "%s finished in %s", name, took)
            return
        error, about = attempt.error, {"task_id": attempt.task_id}
        match attempt.end:
            case _ if attempt.started == 0:
                level = logging.INFO if isinstance(error, StreaqCancelled) else logging.ERROR
                reason = first_line(error) if error else ""
                cure = f" To read it, {OTHER_KEY_CURE}" if str(error) == OTHER_KEY else ""
                logger.log(level, "%s not run: %s%s", name, reason, cure, extra=about)
            case End.ABORTED:
                logger.info("%s aborted after %s", name, took, extra=about)
            case End.REQUEUED:
                logger.info("%s requeued after %s, the worker is stopping", name, took, extra=about)
            case End.RETRYING:
                wait = duration(max(0, attempt.retry_at - attempt.finished))
                number = _number(attempt)
                logger.warning(
                    "%s failed (attempt %s), retrying in %s", name, number, wait,
                    exc_info=error, extra=about,
                )  # fmt: skip
            case _ if attempt.cause is Cause.TIMEOUT:
                logger.error("%s timed out after %s", name, took, exc_info=error, extra=about)
            case _:
                logger.error(
                    "%s failed after %s (attempt %s)", name, took, _number(attempt),
                    exc_info=error, extra=about,
                )  # fmt: skip

    def _announce(self, attempt: Attempt, level: int) -> None:
        if attempt.was_announced or attempt.is_silent:
            return
        attempt.was_announced = True
        about = {"task_id": attempt.task_id}
        if attempt.tries > 1:
            number = _number(attempt)
            logger.log(level, "%s started (attempt %s)", attempt.fn_name, number, extra=about)
        else:
            logger.log(level, "%s started", attempt.fn_name, extra=about)


def _number(attempt: Attempt) -> str:
    """Return ``2 of 5`` if the number of tries is limited, else ``2``."""
    policy = policy_of(attempt.task)
    return f"{attempt.tries} of {policy.retry.max_tries}" if policy else str(attempt.tries)
