"""What a worker says of its tasks: one line a happening, never an argument's value."""

from __future__ import annotations

import logging
from typing import Any

from streaq import TaskContext, Worker
from streaq.types import StreaqCancelled

from vibetuner.logs import Speaker
from vibetuner.tasks.try_end import TryEnd
from vibetuner.timing import duration

__all__ = ["Reporter", "hit_the_engines_limit"]

logger = logging.getLogger(__name__)


class Reporter:
    """Writes the log lines of one worker's tasks."""

    def __init__(self, worker: Worker[Any]) -> None:
        self._worker = worker
        self._speaker = Speaker(logger)

    def started(self, run: TaskContext) -> None:
        """Report that a try begins."""
        if run.tries > 1:
            self._speaker.info(run.task_id, "%s started (try %d)", run.fn_name, run.tries)
        else:
            self._speaker.info(run.task_id, "%s started", run.fn_name)

    def failed(self, run: TaskContext, error: BaseException) -> None:
        """Report why there will be another try."""
        logger.warning("%s failed", run.fn_name, exc_info=error, extra={"task_id": run.task_id})

    def finished(self, end: TryEnd) -> None:
        """Report the end of a try: done, failed, aborted, or handed back."""
        if end.silent:
            return
        took = duration(end.finish_time - end.start_time)
        error, name, about = end.return_value, end.fn_name, {"task_id": end.message.task_id}
        if end.success:
            self._speaker.info(end.message.task_id, "%s done in %s", name, took)
        elif end.finish and isinstance(error, StreaqCancelled):
            logger.info("%s aborted after %s", name, took, extra=about)
        elif hit_the_engines_limit(error, finish=end.finish):
            logger.error("%s timed out after %s", name, took, extra=about)
        elif end.finish:
            logger.error("%s failed after %s", name, took, exc_info=error, extra=about)
        elif end.schedule is None:
            logger.info("%s handed back after %s, the worker is stopping", name, took, extra=about)
        else:
            wait = duration(max(0, end.schedule - end.finish_time))
            logger.warning("%s will be tried again in %s", name, wait, extra=about)

    def not_run(self, error: BaseException, fn_name: str) -> None:
        """Report a task that ended without being run."""
        task = self._worker.registry.get(fn_name)
        if task and task.silent:
            return
        level = logging.INFO if isinstance(error, StreaqCancelled) else logging.ERROR
        logger.log(level, "%s not run: %s", fn_name, error)


def hit_the_engines_limit(outcome: object, *, finish: bool) -> bool:
    """Whether the engine has ended a try for good at its time limit: that error was never raised.

    >>> hit_the_engines_limit(TimeoutError(), finish=True)
    True
    """
    return finish and isinstance(outcome, TimeoutError) and outcome.__traceback__ is None
