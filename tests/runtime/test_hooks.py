"""The limits of hooks."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.waiting import eventually
from vibetuner import hooks as module
from vibetuner.hooks import Hooks


async def test_only_so_many_calls_run_and_wait(caplog: pytest.LogCaptureFixture):
    """Ten calls of hooks run at once, a thousand wait, and a further one is dropped and logged."""
    hooks, free = Hooks(), asyncio.Event()
    running, most, calls = 0, 0, 0

    async def hook() -> None:
        nonlocal running, most, calls
        running, calls = running + 1, calls + 1
        most = max(most, running)
        await free.wait()
        running -= 1

    for _ in range(module.MOST_WAITING + 1):
        hooks.call("on_error for charge", hook)
    await eventually(lambda: running == module.MOST_AT_ONCE)
    free.set()
    await hooks.close()
    assert (most, calls) == (module.MOST_AT_ONCE, module.MOST_WAITING)
    assert caplog.messages == ["on_error for charge is too slow: a call was dropped"]


async def test_a_hook_that_never_returns_is_left_at_the_end(caplog: pytest.LogCaptureFixture):
    """A hook that never returns is cancelled when the process stops, and counted in the log."""
    hooks, begun, ended = Hooks(), asyncio.Event(), asyncio.Event()

    async def hook() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    hooks.call("on_error for charge", hook)
    await begun.wait()
    await hooks.close(at_once=True)
    await ended.wait()
    assert caplog.messages == ["hooks that did not return before the process stopped: 1"]


async def test_an_awaitable_of_a_plain_function_is_awaited():
    """An awaitable that a plain function returns, such as a lambda, is awaited."""
    hooks, told = Hooks(), []

    async def hook(text: str) -> None:
        told.append(text)

    hooks.call("on_error", lambda text: [hook(text)][0], "told")
    await hooks.close()
    assert told == ["told"]


def test_a_hook_that_outlives_its_loop_disturbs_nobody():
    """The thread of a hook that outlives its event loop ends without an error."""
    go, threads = threading.Event(), []

    def slow() -> None:
        threads.append(threading.current_thread())
        go.wait()

    async def main() -> None:
        hooks = Hooks()
        hooks.call("slow", slow)
        await eventually(lambda: threads)
        await hooks.close(at_once=True)

    asyncio.run(main())
    go.set()
    threads[0].join(60)
    assert not threads[0].is_alive()
