"""Progress that a task reports, and the end of the reports."""

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
from vibetuner.sse.history import History, history_of
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
    """A worker of a project that has no tasks yet."""
    stand_in()
    with using_worker(TaskWorker(settings)) as worker:
        async with held_open(running(worker)):
            yield worker


async def watch(task_id: str, seconds: float = 30) -> list[ProgressState]:
    """All states of a task, until it ends."""
    async with asyncio.timeout(seconds):
        return [state async for state in watch_progress(task_id)]


async def events_of(worker: TaskWorker, settings: Settings, channel: str) -> list[Event]:
    past = await history_of(worker.redis, settings).read(channel, "0-0")
    assert past.missed is None  # 0-0 proves nothing
    entries = await worker.redis.xrange(f"{settings.redis_key_prefix}sse:{channel}")
    return [
        Event(str(e.field_values["event"]), str(e.field_values["data"]), str(e.identifier))
        for e in entries
    ]


async def until_closed(worker: TaskWorker, settings: Settings, task_id: str) -> list[Event]:
    async def closed() -> list[Event] | None:
        events = await events_of(worker, settings, task_id)
        return events if events and events[-1].name in ENDS else None

    return await eventually(closed, seconds=30)


async def test_a_task_reports_its_progress_and_its_end(worker: TaskWorker, settings: Settings):
    """The watcher sees rising numbers, a rate, and one end; the end is the truth."""

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


async def test_a_message_that_cannot_be_encoded_is_shown_with_a_question_mark(worker: TaskWorker):
    """A file's name need not be UTF-8."""

    @worker.task()
    async def read() -> None:
        await Progress(total=1).update(message="reading caf\udce9.csv")

    task = await read.enqueue()
    assert "reading caf?.csv" in {state.message for state in await watch(task.id)}


async def test_however_often_it_advances_few_events_are_sent_and_always_the_last(
    worker: TaskWorker, settings: Settings
):
    """A hundred thousand steps are a handful of messages."""

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
    """A step that takes long must not hide the one before it."""
    go_on = asyncio.Event()

    @worker.task()
    async def pause() -> None:
        progress = Progress(total=3)
        await progress.advance()
        await progress.advance()
        await progress.update(message="resting")
        await go_on.wait()

    task = await pause.enqueue()
    async with asyncio.timeout(30):
        async for state in watch_progress(task.id):
            if (state.done, state.message) == (2, "resting"):
                go_on.set()
    assert go_on.is_set()


async def test_another_channel_may_hear_of_it_too(worker: TaskWorker, settings: Settings):
    """The updates and the end, beside the channel of the task itself."""

    @worker.task()
    async def upload() -> None:
        progress = Progress(total=1, channel="uploads:ann")
        await progress.advance()

    task = await upload.enqueue()
    own = await until_closed(worker, settings, task.id)
    other = await until_closed(worker, settings, "uploads:ann")
    assert [(e.name, e.data) for e in own] == [(e.name, e.data) for e in other]


async def failing(worker: TaskWorker) -> Any:
    @worker.task()
    async def fail() -> None:
        await Progress(total=2).advance()
        raise ValueError("the till is empty")

    return fail


async def timing_out(worker: TaskWorker) -> Any:
    @worker.task(timeout=timedelta(seconds=0.2))
    async def time_out() -> None:
        await Progress(total=2).advance()
        await asyncio.sleep(60)

    return time_out


async def robust_failing(worker: TaskWorker) -> Any:
    @robust_task(max_retries=2, backoff_base=0.1)
    async def robust() -> None:
        await Progress(total=2).advance()
        raise ValueError("the till is empty")

    return robust


async def quiet_failing(worker: TaskWorker) -> Any:
    @worker.task()
    async def quiet() -> None:
        await asyncio.sleep(0.5)
        raise ValueError("the till is empty")

    return quiet


@pytest.mark.parametrize("make", [failing, timing_out, robust_failing, quiet_failing])
async def test_the_end_is_told_whatever_ends_the_task(
    worker: TaskWorker, settings: Settings, make: Callable[..., Any]
):
    """An error, a timeout, the last of several tries; also where the task itself told nothing."""
    task = await (await make(worker)).enqueue()
    states = await watch(task.id)
    assert states[-1].status is ProgressStatus.FAILED
    events = await events_of(worker, settings, task.id)
    assert [e.name for e in events if e.name in ENDS] == ["failed"]


async def test_a_task_ended_by_a_person_is_aborted(worker: TaskWorker, settings: Settings):
    """While it runs, and while it waits for its time."""

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
    """Its watcher gets the event ``failed``, though the task never begins."""

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


async def test_a_new_try_begins_anew_and_the_pause_between_says_so(
    worker: TaskWorker, settings: Settings
):
    """Numbers go back to the beginning: so does the work."""

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
    """Also of a task that told nothing, as long as its result is kept."""

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
    """It wakes up and goes on telling; the page has its end already."""
    store = history(worker, settings)
    state = ProgressState(task_id="t", status=ProgressStatus.RUNNING, done=1, total=2)
    await write_progress(store, state, anew=True)
    await finish_progress(store, "t", ProgressStatus.COMPLETE)
    await finish_progress(store, "t", ProgressStatus.FAILED)
    await write_progress(store, state)
    assert (await read_progress(store, "t"))[0] == state.at_end(ProgressStatus.COMPLETE)
    assert [e.name for e in await events_of(worker, settings, "t")] == ["progress", "complete"]


async def test_unwatched_tasks_store_nothing_and_all_keys_expire(
    worker: TaskWorker, settings: Settings
):
    """Progress costs only those who use it."""

    @worker.task()
    async def plain() -> None: ...

    @worker.task()
    async def telling() -> None:
        await Progress(total=1, channel="other").advance()

    for task in (await plain.enqueue(), await telling.enqueue()):
        await task.result(timeout=30)
    await until_closed(worker, settings, task.id)
    prefix = settings.redis_key_prefix
    keys = sorted([k async for k in worker.redis.scan_iter(match=f"{prefix}*")])
    # The journal keeps its own of every task, and the relay of letters notes that it has counted.
    others = (f"{prefix}journal:", f"{prefix}dead_letters:")
    assert [key for key in keys if not key.startswith(others)] == sorted(
        [f"{prefix}progress:{task.id}", f"{prefix}sse:{task.id}", f"{prefix}sse:other"]
    )
    assert [key for key in keys if await worker.redis.ttl(key) < 0] == []


async def test_one_question_covers_the_watchers_of_many_tasks(
    worker: TaskWorker, settings: Settings
):
    """Twenty requests a second are the most, however many tasks end; the tasks wait for none."""

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
    """The report is the task's own fault; the result is not lost for it, and the end is told."""

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


async def test_a_task_is_finished_though_its_end_cannot_be_told(
    worker: TaskWorker, settings: Settings, caplog: pytest.LogCaptureFixture
):
    """Somebody else wrote where its state belongs; of other tasks the end is told all the same."""

    @worker.task()
    async def plain() -> None: ...

    @worker.task()
    async def telling() -> None:
        await Progress(total=1).advance()

    spoilt = plain.enqueue()
    await worker.redis.set(f"{settings.redis_key_prefix}progress:{spoilt.id}", "x", ex=60)
    await spoilt
    task = await telling.enqueue()
    assert (await spoilt.result(timeout=30)).success
    assert (await until_closed(worker, settings, task.id))[-1].name == "complete"
    words = "could not publish progress"
    assert await eventually(lambda: any(m.startswith(words) for m in caplog.messages))


async def test_an_end_during_an_outage_is_published_afterwards(tmp_path: Path):
    """Redis is away in the moment after the task was finished, and nobody's browser is there."""
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
    """A project's tests call their tasks as what they are: functions."""
    progress = Progress(total=3)
    rows = [row async for row in progress.track(["a", "b", "c"])]
    assert (rows, progress.done) == (["a", "b", "c"], 3)


async def test_rows_may_come_one_after_the_other():
    """From a database, say; a length they need not have."""

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
    """And its percent is one, whatever was counted."""
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
    """Somebody else's event of the same name."""
    with pytest.raises(ValueError, match="ProgressState"):
        ProgressState.from_json(text)


def history(worker: TaskWorker, settings: Settings) -> History:
    return history_of(worker.redis, settings)
