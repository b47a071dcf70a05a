"""Fake tasks."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vibetuner.testing import MockTasks


async def test_each_call_has_an_id():
    """Each call of a fake task has an id of its own."""
    tasks = MockTasks()

    first, second = await tasks.send.enqueue("a", loud=True), await tasks.send.enqueue("b")

    assert len({first.id, second.id}) == 2
    assert tasks.send.enqueue.call_count == tasks.send.enqueue.await_count == 2
    tasks.send.enqueue.assert_any_await("a", loud=True)


async def test_a_start_may_stand_in_between():
    """A fake task's call may be followed by ``start()``."""
    tasks = MockTasks()

    task = await tasks.send.enqueue("a").start(delay=60)

    assert task.id
    tasks.send.enqueue.assert_awaited_once_with("a")


async def test_a_key_and_a_session_may_stand_in_between():
    """A fake task's call may be followed by ``once()`` and ``within()``."""
    tasks = MockTasks()

    task = await tasks.send.enqueue("a").start(delay=60).once("evt", keep=None).within(object())

    assert task.id
    tasks.send.enqueue.assert_awaited_once_with("a")


async def test_a_chain_may_stand_in_between():
    """A fake task may begin a chain, in either notation, and have a fallback."""
    tasks = MockTasks()

    await tasks.fetch.enqueue("a").then(tasks.parse).then(tasks.store)
    await (tasks.fetch.enqueue("b") | tasks.parse ^ tasks.report)
    await tasks.fetch.enqueue("c").otherwise(tasks.report).start(delay=60)

    assert [call.args for call in tasks.fetch.enqueue.await_args_list] == [("a",), ("b",), ("c",)]


async def test_an_id_of_ones_own_is_kept():
    """A fake call has an id before it is awaited, which a route may read or set."""
    call = MockTasks().send.enqueue("a")
    assert call.id
    call.id = "order-7"
    assert (await call).id == "order-7"


async def test_what_was_enqueued_can_be_asked_and_aborted():
    """The methods of a call that was enqueued can be awaited, and those of no call are missing."""
    task = await MockTasks().send.enqueue("a")

    task.result.return_value.success = False
    assert not (await task.result(timeout=30)).success
    assert await task.status()
    assert await task.abort()
    with pytest.raises(AttributeError):
        task.cancel()


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("start", {"dealy": 5}, "start() got an unexpected keyword argument 'dealy'"),
        ("once", {}, "once() missing a required argument: 'key'"),
        ("within", {}, "within() missing a required argument: 'session'"),
    ],
)
def test_an_argument_that_a_real_task_refuses_is_refused(
    method: str, arguments: dict[str, Any], message: str
):
    """A fake task refuses an argument that a real one refuses.

    Otherwise a test would pass, and its route fail.
    """
    call = MockTasks().send_report.enqueue("2026-07")
    with pytest.raises(TypeError, match=re.escape(message)):
        getattr(call, method)(**arguments)
    call._call.close()


def test_fake_tasks_do_not_answer_to_what_tools_probe_for():
    """Fake tasks have no names with two underscores, for which ``inspect`` and ``copy`` ask."""
    assert not hasattr(MockTasks(), "__wrapped__")


async def test_a_fake_can_be_made_to_fail():
    """A fake task raises an error that is set as its side effect."""
    tasks = MockTasks()
    tasks.send.enqueue.side_effect = ConnectionError("no queue")

    with pytest.raises(ConnectionError, match="no queue"):
        await tasks.send.enqueue("a")
