"""Calls the project's hooks, ``on_failure=`` and ``on_error=``, in the background."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any

from vibetuner.logs import log_sparingly

logger = logging.getLogger(__name__)

CALL_SECONDS = 30.0
LEAVE_SECONDS = 2.0
MOST_AT_ONCE = 10
MOST_WAITING = 1000
MOST_LINES = 5


class Hooks:
    """Calls functions of the project in the background; nothing waits for them.

    An async function runs in the event loop that made this object, a sync one in a thread. Each has
    30 seconds. Ten run at a time and a thousand wait; further calls are dropped. An exception in a
    hook, even SystemExit, is logged in one line.
    """

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        log_sparingly(logger, MOST_LINES)

    def call(self, name: str, hook: Callable[..., Any], *args: object) -> None:
        """Call a hook soon; ``name`` is its name in the log."""
        if len(self._calls) >= MOST_WAITING:
            logger.error("%s is too slow: a call was dropped", name)
            return
        call = asyncio.get_running_loop().create_task(self._call(name, hook, args))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def close(self, *, at_once: bool = False) -> None:
        """Wait up to two seconds for calls to return, then cancel the rest."""
        if not (calls := set(self._calls)):
            return
        _, late = await asyncio.wait(calls, timeout=0 if at_once else LEAVE_SECONDS)
        for call in late:
            call.cancel()
        if late:
            logger.error("hooks that did not return before the process stopped: %d", len(late))

    async def _call(self, name: str, hook: Callable[..., Any], args: tuple[object, ...]) -> None:
        async with self._turns:
            # In a task of its own: a hook that ignores its cancellation must not block a slot.
            running = asyncio.ensure_future(_run(name, hook, args))
            try:
                await asyncio.wait({running}, timeout=CALL_SECONDS)
            finally:
                if not running.done():
                    running.cancel()
            if not running.done():
                logger.error("%s did not return within %g s", name, CALL_SECONDS)


async def _run(name: str, hook: Callable[..., Any], args: tuple[object, ...]) -> None:
    try:
        outcome = await _started(hook, args)
        if inspect.isawaitable(outcome):
            await outcome
    except asyncio.CancelledError:
        return  # it took too long, which was logged
    except BaseException:
        logger.exception("%s failed", name)


async def _started(hook: Callable[..., Any], args: tuple[object, ...]) -> Any:
    """Call an async function here, a sync one in a thread that the process doesn't wait for."""
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__):
        return hook(*args)
    done: Future[tuple[Any, BaseException | None]] = Future()
    done.set_running_or_notify_cancel()  # so that a caller that gives up doesn't cancel it
    call = partial(copy_context().run, hook, *args)
    threading.Thread(target=_in_thread, args=(call, done), daemon=True, name="hook").start()
    value, error = await asyncio.wrap_future(done)
    if error is not None:
        raise error
    return value


def _in_thread(call: Callable[[], Any], done: Future[tuple[Any, BaseException | None]]) -> None:
    # An exception is a result here: asyncio's futures take no StopIteration.
    outcome: tuple[Any, BaseException | None]
    try:
        outcome = call(), None
    except BaseException as raised:  # noqa: BLE001 - SystemExit and the like end the call only
        outcome = None, raised
    done.set_result(outcome)
