"""Progress that a task reports, and the event that closes the reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.sse.event import Event
from vibetuner.sse.history import History
from vibetuner.tasks.attempt import current_task_id
from vibetuner.tasks.observers.progress import ProgressObserver
from vibetuner.tasks.progress import Progress, ProgressState, ProgressStatus, watch_progress
from vibetuner.tasks.progress.state import (
    finish_progress,
    read_progress,
    register_watch,
    write_progress,
)
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker
from vibetuner.testing import held_open

ENDS = {"complete", "failed", "aborted"}


@pytest.fixture
async def worker(
    fresh: None, settings: Settings, stand_in: Callable[..., Any], running: Callable[..., Any]
) -> AsyncIterator[TaskWorker]:
    """Yield a running worker of a project that has no tasks yet."""
    stand_in()
    with using_worker(TaskWorker(settings)) as worker:
        async with held_open(running(worker)):
            yield worker


async def watch(task_id: str, seconds: float = 30) -> list[ProgressState]:
    """Return all states of a task until it ends."""
    async with asyncio.timeout(seconds):
        return [state async for state in watch_progress(task_id)]


async def events_of(worker: TaskWorker, settings: Settings, channel: str) -> list[Event]:
    """Return the events of a channel that Redis keeps."""
    past = await History(worker.redis, settings).read(channel, "0-0")
    assert past.missed is None  # a read from 0-0 can't detect missed events
    entries = await worker.redis.xrange(f"{settings.redis_key_prefix}sse:{channel}")
    return [
        Event(str(e.field_values["event"]), str(e.field_values["data"]), str(e.identifier))
        for e in entries
    ]


async def until_closed(worker: TaskWorker, settings: Settings, task_id: str) -> list[Event]:
    """Return the events of a channel once the last one is a closing event."""

    async def closed() -> list[Event] | None:
        events = await events_of(worker, settings, task_id)
        return events if events and events[-1].name in ENDS else None

    return await eventually(closed, seconds=30)


async def until_shown(worker: TaskWorker, settings: Settings, task_id: str, message: str) -> None:
    """Wait until the state of a task has this message."""

    async def is_shown() -> bool:
        state, _ = await read_progress(history(worker, settings), task_id)
        return state is not None and state.message == message

    await eventually(is_shown, seconds=30)


async def test_a_task_reports_its_progress_and_its_end(worker: TaskWorker, settings: Settings):
    """A watcher sees rising numbers, a rate, and exactly one end, which has the final numbers."""

    @worker.task()
    async def count() -> str:
        progress = Progress(total=8, message="counting")
        for _ in range(8):
            await progress.advance()
            await asyncio.sleep(0.15)
        return "counted"

    task = await count.enqueue()
    states = await watch(task.id)

    done = [state.done for state in states]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert {state.total for state in states if state.done} == {8}
    assert any(state.rate and state.eta for state in states)
    assert states[-1] == ProgressState(
        task_id=task.id, status=ProgressStatus.COMPLETE, done=8, total=8, message="counting"
    )
    assert [s.is_over for s in states].count(True) == 1


async def test_an_id_that_is_used_again_has_the_progress_of_its_latest_task(
    worker: TaskWorker, settings: Settings
):
    """A second task of an id is watched from its start, and its own end is shown, watched or not.

    The end of the first one is kept for a day, and would be shown for both.
    """
    may_fail = asyncio.Event()

    @worker.task(ttl=0)
    async def once_well(attempt: int) -> None:
        if attempt > 1:
            await may_fail.wait()
            raise ValueError

    async def start(attempt: int) -> Any:
        call = once_well.enqueue(attempt).start(delay=0.5 if attempt == 1 else None)
        call.id = "acme"
        return await call

    await start(1)
    assert (await watch("acme"))[-1].status is ProgressStatus.COMPLETE
    await start(2)
    watching = asyncio.create_task(watch("acme"))
    await asyncio.sleep(0.2)
    may_fail.set()
    states = await watching
    assert not states[0].is_over
    assert states[-1].status is ProgressStatus.FAILED

    may_fail.clear()
    await write_progress(  # as if only the first task had been watched
        history(worker, settings),
        ProgressState(task_id="acme", status=ProgressStatus.COMPLETE),
        anew=True,
    )
    await start(3)
    may_fail.set()

    async def status() -> Any:
        state, _ = await read_progress(history(worker, settings), "acme")
        return state is not None and state.status is ProgressStatus.FAILED

    await eventually(status)


async def test_the_last_state_is_published_however_slow_redis_was_at_the_one_before(
    worker: TaskWorker, settings: Settings
):
    """A state that was reported while another one was being sent is published after it."""
    release = asyncio.Event()

    @worker.task()
    async def two_at_once() -> None:
        progress = Progress(total=10)
        await progress.advance()
        await asyncio.sleep(0.4)
        await worker.redis.client_pause(1000)
        first = asyncio.create_task(progress.advance())
        await asyncio.sleep(0.1)
        await progress.update(done=7, message="a long step")
        await first
        await release.wait()

    task = await two_at_once.enqueue()
    await until_shown(worker, settings, task.id, "a long step")
    release.set()
    assert (await watch(task.id))[-1].done == 7


async def test_a_report_that_redis_refused_is_repeated(worker: TaskWorker, settings: Settings):
    """A report that failed is published later, though the task reports nothing more."""
    release = asyncio.Event()

    @worker.task()
    async def count() -> None:
        key = f"{settings.redis_key_prefix}progress:{current_task_id()}"
        await worker.redis.delete([key])
        await worker.redis.set(key, "in the way")
        await Progress(total=10).update(done=7, message="a long step")
        await worker.redis.delete([key])
        await release.wait()

    task = await count.enqueue()
    await until_shown(worker, settings, task.id, "a long step")
    release.set()
    assert (await watch(task.id))[-1].done == 7


async def test_a_message_that_cannot_be_encoded_is_shown_with_a_question_mark(worker: TaskWorker):
    """A character that can't be encoded, as in a file's name, becomes a question mark."""

    @worker.task()
    async def read() -> None:
        await Progress(total=1).update(message="reading caf\udce9.csv")

    task = await read.enqueue()
    assert "reading caf?.csv" in {state.message for state in await watch(task.id)}


async def test_however_often_it_advances_few_events_are_sent_and_always_the_last(
    worker: TaskWorker, settings: Settings
):
    """A hundred thousand steps send about four events a second, and always the last state."""

    @worker.task()
    async def race() -> None:
        progress = Progress()
        async for _ in progress.track(range(100_000)):
            pass

    task = await race.enqueue()
    events = await until_closed(worker, settings, task.id)

    result = await task.result(timeout=30)
    seconds = (result.finish_time - result.start_time) / 1000
    assert len(events) <= 4 + seconds / 0.25
    assert [e.name for e in events if e.name in ENDS] == ["complete"]
    last = ProgressState.from_json(events[-1].data)
    assert (last.done, last.total, last.percent) == (100_000, 100_000, 100)


async def test_the_last_report_is_shown_even_if_the_task_then_falls_silent(
    worker: TaskWorker, settings: Settings
):
    """The last report before a long pause of the task is published."""
    go_on = asyncio.Event()

    @worker.task()
    async def pause() -> None:
        progress = Progress(total=3)
        await progress.advance()
        await progress.advance()
        await progress.update(message="resting")
        await go_on.wait()

    task = await pause.enqueue()
    async with asyncio.timeout(60):
        async for state in watch_progress(task.id):
            if (state.done, state.message) == (2, "resting"):
                go_on.set()
    assert go_on.is_set()


async def test_progress_may_have_a_second_channel(worker: TaskWorker, settings: Settings):
    """Updates and the end are published on the channel of `channel=` and on the task's own."""

    @worker.task()
    async def upload() -> None:
        progress = Progress(total=1, channel="uploads:ann")
        await progress.advance()

    task = await upload.enqueue()
    own = await until_closed(worker, settings, task.id)
    other = await until_closed(worker, settings, "uploads:ann")
    assert [(e.name, e.data) for e in own] == [(e.name, e.data) for e in other]


async def failing(worker: TaskWorker) -> Any:
    """Return a task that reports progress and raises an error."""

    @worker.task()
    async def fail() -> None:
        await Progress(total=2).advance()
        raise ValueError("the till is empty")

    return fail


async def timing_out(worker: TaskWorker) -> Any:
    """Return a task that reports progress and exceeds its timeout."""

    @worker.task(timeout=timedelta(seconds=0.2))
    async def time_out() -> None:
        await Progress(total=2).advance()
        await asyncio.sleep(60)

    return time_out


async def robust_failing(worker: TaskWorker) -> Any:
    """Return a robust task that fails twice."""

    @robust_task(max_retries=2, backoff_base=0.1)
    async def robust() -> None:
        await Progress(total=2).advance()
        raise ValueError("the till is empty")

    return robust


async def quiet_failing(worker: TaskWorker) -> Any:
    """Return a task that fails without having reported anything."""

    @worker.task()
    async def quiet() -> None:
        await asyncio.sleep(0.5)
        raise ValueError("the till is empty")

    return quiet


@pytest.mark.parametrize("make", [failing, timing_out, robust_failing, quiet_failing])
async def test_the_end_is_published_whatever_ends_the_task(
    worker: TaskWorker, settings: Settings, make: Callable[..., Any]
):
    """The event `failed` is published once after an error, a timeout or the last of several tries.

    The task need not have reported anything.
    """
    task = await (await make(worker)).enqueue()
    states = await watch(task.id)
    assert states[-1].status is ProgressStatus.FAILED
    events = await events_of(worker, settings, task.id)
    assert [e.name for e in events if e.name in ENDS] == ["failed"]


async def test_a_task_ended_by_a_person_is_aborted(worker: TaskWorker, settings: Settings):
    """An abort of a running or a delayed task publishes `aborted`."""

    @worker.task()
    async def endless() -> None:
        await Progress(total=2).advance()
        await asyncio.sleep(3600)

    task = await endless.enqueue()
    waiting = endless.enqueue().start(delay=3600)
    await waiting
    seen: dict[str, list[ProgressStatus]] = {}

    async def see(task_id: str) -> None:
        async for state in watch_progress(task_id):
            seen.setdefault(task_id, []).append(state.status)

    async with asyncio.TaskGroup() as group:
        group.create_task(see(task.id))
        group.create_task(see(waiting.id))
        for task_id in (task.id, waiting.id):
            await eventually(lambda task_id=task_id: seen.get(task_id))
        await eventually(lambda: ProgressStatus.RUNNING in seen[task.id])
        assert await task.abort()
        assert await waiting.abort()
    assert seen[task.id][-1] is ProgressStatus.ABORTED
    assert seen[waiting.id] == [ProgressStatus.QUEUED, ProgressStatus.ABORTED]


async def test_a_dependent_of_a_failed_task_is_reported_as_failed(
    worker: TaskWorker, settings: Settings
):
    """A task whose dependency fails publishes `failed`, though it never begins."""

    @worker.task()
    async def first() -> None:
        await asyncio.sleep(1)
        raise ValueError("no")

    @worker.task()
    async def second() -> None: ...

    one = await first.enqueue()
    two = second.enqueue().start(after=one.id)
    await two
    assert (await watch(two.id))[-1].status is ProgressStatus.FAILED


async def test_a_new_try_begins_anew_and_is_queued_before(worker: TaskWorker, settings: Settings):
    """A task is shown as queued while it waits for its retry, which counts from zero."""

    @robust_task(max_retries=2, backoff_base=1.0)
    async def twice() -> None:
        progress = Progress(total=4)
        await progress.advance(3)
        if twice.context.tries == 1:
            raise ValueError("not yet")
        await progress.advance()

    task = await twice.enqueue()
    states = await watch(task.id)
    shown = [(s.status.value, s.done) for s in states]
    assert ("queued", 3) in shown
    assert shown[-1] == ("complete", 4)


async def test_a_late_watcher_sees_the_end(worker: TaskWorker, settings: Settings):
    """A watcher that comes late sees the end, even of a task that reported nothing.

    An unknown task raises LookupError.
    """

    @worker.task()
    async def quick() -> None: ...

    task = await quick.enqueue()
    await task.result(timeout=30)
    assert [state.status for state in await watch(task.id)] == [ProgressStatus.COMPLETE]
    with pytest.raises(LookupError):
        await watch("nobody")


async def test_a_worker_that_was_believed_dead_cannot_undo_an_end(
    worker: TaskWorker, settings: Settings
):
    """A worker's reports that come after the task's end are ignored, and so is the end again."""
    store = history(worker, settings)
    state = ProgressState(task_id="t", status=ProgressStatus.RUNNING, done=1, total=2)
    await write_progress(store, state, anew=True)
    await finish_progress(store, "t", ProgressStatus.COMPLETE)
    await finish_progress(store, "t", ProgressStatus.COMPLETE)
    await write_progress(store, state)
    assert (await read_progress(store, "t"))[0] == state.at_end(ProgressStatus.COMPLETE)
    assert [e.name for e in await events_of(worker, settings, "t")] == ["progress", "complete"]


async def test_unwatched_tasks_store_nothing_and_all_keys_expire(
    worker: TaskWorker, settings: Settings
):
    """A task that is not watched and reports nothing stores no progress, and all keys expire."""

    @worker.task()
    async def plain() -> None: ...

    @worker.task()
    async def reporting() -> None:
        await Progress(total=1, channel="other").advance()

    for task in (await plain.enqueue(), await reporting.enqueue()):
        await task.result(timeout=30)
    await until_closed(worker, settings, task.id)
    prefix = settings.redis_key_prefix
    keys = sorted([k async for k in worker.redis.scan_iter(f"{prefix}*", count=10_000)])
    # The journal keeps its own of every task, and the relay of letters notes that it has counted.
    others = (f"{prefix}journal:", f"{prefix}dead_letters:")
    assert [key for key in keys if not key.startswith(others)] == sorted(
        [f"{prefix}progress:{task.id}", f"{prefix}sse:{task.id}", f"{prefix}sse:other"]
    )
    assert [key for key in keys if await worker.redis.ttl(key) < 0] == []


async def test_one_request_covers_the_watchers_of_many_tasks(
    worker: TaskWorker, settings: Settings
):
    """Watchers of tasks that have ended are looked up in at most twenty requests a second."""

    @worker.task()
    async def plain() -> None: ...

    async def requests() -> int:
        stats: Any = await worker.redis.info("commandstats")
        return int(stats.get("cmdstat_eval", {}).get("calls", 0))

    before, began = await requests(), time.monotonic()
    tasks = [plain.enqueue() for _ in range(300)]
    await worker.enqueue_many(tasks)
    for task in tasks:
        await task.result(timeout=60)
    assert await requests() - before <= 2 + (time.monotonic() - began) / 0.05


async def test_a_task_is_finished_though_its_last_report_cannot_be_sent(
    worker: TaskWorker, settings: Settings, caplog: pytest.LogCaptureFixture
):
    """A report that can't be sent is logged.

    The task's result is kept, and its end is published.
    """

    @worker.task()
    async def odd() -> str:
        progress = Progress(total=3)
        await progress.advance()
        progress.message = {"a set"}  # type: ignore[assignment]
        await progress.advance()
        return "kept"

    task = await odd.enqueue()
    result = await task.result(timeout=30)
    assert (result.success, result.result) == (True, "kept")
    assert (await until_closed(worker, settings, task.id))[-1].name == "complete"
    assert f"could not publish progress of {task.id}: TypeError" in caplog.messages


async def test_a_task_is_finished_though_its_end_cannot_be_published(
    worker: TaskWorker, settings: Settings, caplog: pytest.LogCaptureFixture
):
    """A task ends though its progress key has another type, and other tasks publish their ends."""

    @worker.task()
    async def plain() -> None: ...

    @worker.task()
    async def reporting() -> None:
        await Progress(total=1).advance()

    spoilt = plain.enqueue()
    await worker.redis.set(f"{settings.redis_key_prefix}progress:{spoilt.id}", "x", ex=60)
    await spoilt
    task = await reporting.enqueue()
    assert (await spoilt.result(timeout=30)).success
    assert (await until_closed(worker, settings, task.id))[-1].name == "complete"
    message = "could not publish progress"
    assert await eventually(lambda: any(m.startswith(message) for m in caplog.messages))


async def test_an_end_during_an_outage_is_published_afterwards(tmp_path: Path):
    """An end that can't be published because Redis is down is published when Redis is back."""
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        with using_settings(valkey.settings):
            async with TaskWorker(valkey.settings) as own:
                store = history(own, valkey.settings)
                await register_watch(store, ProgressState(task_id="t"))
                valkey.kill()
                observer = ProgressObserver(own.client.functions, store)
                observer.publish("t", ProgressStatus.COMPLETE)
                await asyncio.sleep(0.3)
                valkey.start()
                assert (await until_closed(own, valkey.settings, "t"))[-1].name == "complete"
    finally:
        valkey.kill()


async def test_a_directly_called_function_counts_and_publishes_nothing():
    """Progress counts without a worker, as in a test that calls the task's function."""
    progress = Progress(total=3)
    rows = [row async for row in progress.track(["a", "b", "c"])]
    assert (rows, progress.done) == (["a", "b", "c"], 3)


async def test_rows_may_come_one_after_the_other():
    """track() takes an async iterator, which has no length and so no total."""

    async def rows() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    progress = Progress()
    assert [row async for row in progress.track(rows())] == [0, 1, 2]
    assert (progress.done, progress.total) == (3, None)


@given(
    done=st.integers(0, 10**15), total=st.none() | st.integers(0, 10**15), message=st.text(),
    rate=st.none() | st.floats(0, 1e9), status=st.sampled_from(ProgressStatus),
)  # fmt: skip
def test_a_state_comes_back_as_it_was_kept(
    done: int, total: int | None, message: str, rate: float | None, status: ProgressStatus
):
    """A state is read as it was stored, and its percent is None or between 0 and 100."""
    state = ProgressState(
        task_id="t", status=status, done=done, total=total, message=message, rate=rate
    )
    assert ProgressState.from_json(state.to_json()) == state
    assert state.percent is None or 0 <= state.percent <= 100


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "[]", "{}", '{"task_id": 5}', '{"task_id": "a", "status": "x"}', "[" * 100_000),
        *('{"task_id": "a", "done": true}', '{"task_id": "a", "total": "7"}'),
        *(
            '{"task_id": "a", "rate": NaN}',
            '{"task_id": "a", "eta": 1e999}',
            '{"task_id": "a", "eta": 1e300}',
        ),
    ],
)
def test_a_value_that_is_no_state_is_refused(text: str):
    """A text that is no state raises ValueError, as for a foreign event of the same name."""
    with pytest.raises(ValueError, match="ProgressState"):
        ProgressState.from_json(text)


def history(worker: TaskWorker, settings: Settings) -> History:
    return History(worker.redis, settings)
