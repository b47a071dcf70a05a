"""What a worker says of its tasks: one line a happening, never an argument's value."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from streaq import StreaqRetry, Worker
from streaq.types import StreaqCancelled

from vibetuner.tasks.guard import queued_at
from vibetuner.tasks.journal.recorder import Recorder

__all__ = ["Reporter", "hit_the_engines_limit"]

logger = logging.getLogger(__name__)


class Reporter:
    """Writes the log lines of one worker's tasks, and lets ``recorder`` know of each try."""

    def __init__(self, worker: Worker[Any], recorder: Recorder) -> None:
        self._worker = worker
        self._recorder = recorder
        self._middleware = worker.middleware(self._announce)

    def finished(  # noqa: PLR0913 - what the engine knows of a try
        self,
        *,
        finish: bool,
        schedule: int | None,
        return_value: Any,
        start_time: int,
        finish_time: int,
        fn_name: str,
        success: bool,
        silent: bool,
        **_: Any,
    ) -> None:
        """Report the end of a try: done, failed, aborted, or handed back."""
        if silent:
            return
        took = _duration(finish_time - start_time)
        if success:
            logger.info("%s done in %s", fn_name, took)
        elif finish and isinstance(return_value, StreaqCancelled):
            logger.info("%s aborted after %s", fn_name, took)
        elif hit_the_engines_limit(return_value, finish=finish):
            logger.error("%s timed out after %s", fn_name, took)
        elif finish:
            logger.error("%s failed after %s", fn_name, took, exc_info=return_value)
        elif schedule is None:
            logger.info("%s handed back after %s, the worker is stopping", fn_name, took)
        else:
            wait = _duration(max(0, schedule - finish_time))
            logger.warning("%s will be tried again in %s", fn_name, wait)

    def not_run(self, error: BaseException, fn_name: str) -> None:
        """Report a task that ended without being run."""
        task = self._worker.registry.get(fn_name)
        if task and task.silent:
            return
        level = logging.INFO if isinstance(error, StreaqCancelled) else logging.ERROR
        logger.log(level, "%s not run: %s", fn_name, error)

    def _announce(
        self, run: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def announced(*args: Any, **kwargs: Any) -> Any:
            context = self._middleware.context
            self._recorder.started(context, queued_at.get())
            silent = self._worker.registry[context.fn_name].silent
            if not silent:
                logger.info("%s started%s", context.fn_name, _which_try(context.tries))
            try:
                return await run(*args, **kwargs)
            except StreaqRetry as retry:
                cause = retry.__cause__ or retry
                self._recorder.failing(context.task_id, cause)
                if not silent:
                    logger.warning("%s failed", context.fn_name, exc_info=cause)
                raise

        return announced


def hit_the_engines_limit(outcome: object, *, finish: bool) -> bool:
    """Whether the engine has ended a try for good at its time limit: that error was never raised.

    >>> hit_the_engines_limit(TimeoutError(), finish=True)
    True
    """
    return finish and isinstance(outcome, TimeoutError) and outcome.__traceback__ is None


def _which_try(tries: int) -> str:
    return f" (try {tries})" if tries > 1 else ""


def _duration(milliseconds: int) -> str:
    """A span of time as people say it.

    >>> _duration(12), _duration(4210), _duration(125_000)
    ('12 ms', '4.2 s', '2 min 5 s')
    """
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
