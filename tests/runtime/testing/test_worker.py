"""The manual worker, which runs when a test tells it to."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import freezegun
import pytest
import time_machine

from vibetuner.errors import TaskExists
from vibetuner.tasks.robust import Unique, robust_task
from vibetuner.tasks.worker import get_worker
from vibetuner.testing import ManualWorker
from vibetuner.testing.leaks import lasting_keys

pytestmark = pytest.mark.usefixtures("in_a_project")

tasks = get_worker()
ran: list[str] = []


@tasks.task()
async def note(text: str, *, loud: bool = False) -> str:
    ran.append(text)
    return text.upper() if loud else text


@tasks.task()
async def note_in_turn(count: int) -> None:
    ran.append(f"{count} left")
    if count:
        await note_in_turn.enqueue(count - 1)


@tasks.task()
async def never_ends() -> None:
    await asyncio.Event().wait()


@tasks.cron("0 9 * * *", name="at_nine")
async def at_nine() -> None:
    ran.append("nine")


@tasks.cron("*/15 * * * *", name="quarterly", max_schedule_drift=timedelta(minutes=5))
async def quarterly() -> None:
    ran.append("quarter")


# The clock goes on while a test runs, so that pauses of seconds would pass on a busy machine.
@robust_task(max_retries=3, backoff_base=60)
async def fails(times: int) -> str:
    ran.append(f"try {fails.context.tries}")
    if fails.context.tries <= times:
        raise ValueError("not yet")
    return "at last"


@robust_task(expire=timedelta(minutes=10))
async def only_while_fresh() -> None:
    ran.append("fresh")


@robust_task(unique=Unique(by="all", clash="wait"))
async def one_at_a_time() -> None:
    ran.append("alone")


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


async def test_nothing_runs_before_it_is_asked_to(vibetuner_worker: ManualWorker):
    """An enqueued task stays in the queue until the test runs the worker."""
    task = await note.enqueue("hello", loud=True)
    await asyncio.sleep(0.05)
    assert (ran, str(await task.status())) == ([], "queued")

    await vibetuner_worker.run_until_idle()

    assert ran == ["hello"]
    assert (await task.result(timeout=30)).result == "HELLO"


async def test_what_a_task_enqueues_runs_too(vibetuner_worker: ManualWorker):
    """A run includes the tasks that its tasks enqueue."""
    await note_in_turn.enqueue(30)

    await vibetuner_worker.run_until_idle()

    assert ran[-1] == "0 left"
    assert len(ran) == 31


async def test_the_worker_may_run_again_and_again(vibetuner_worker: ManualWorker):
    """The worker can be run several times, each time with the tasks that came meanwhile."""
    for number in range(5):
        await note.enqueue(str(number))
        await vibetuner_worker.run_until_idle()

    assert ran == list("01234")


async def test_many_at_once_and_chains(vibetuner_worker: ManualWorker):
    """A run completes more tasks than the worker has slots, and chains."""
    await tasks.enqueue_many([note.enqueue(str(number)) for number in range(200)])
    await note.enqueue("first").then(note, loud=True)

    await vibetuner_worker.run_until_idle()

    assert sorted(ran) == sorted([*map(str, range(200)), "first", "first"])


async def test_a_retry_waits_for_the_clock(vibetuner_worker: ManualWorker):
    """A retry runs when the clock has moved by its pause: after one minute, and five more."""
    task = await fails.enqueue(2)
    await vibetuner_worker.run_until_idle()
    assert ran == ["try 1"]

    await vibetuner_worker.advance(seconds=20, cron=False)
    assert ran == ["try 1"]
    await vibetuner_worker.advance(seconds=40, cron=False)
    assert ran == ["try 1", "try 2"]
    await vibetuner_worker.advance(minutes=4, cron=False)
    assert len(ran) == 2
    await vibetuner_worker.advance(minutes=1, cron=False)

    assert len(ran) == 3
    assert (await task.result(timeout=30)).result == "at last"


async def test_a_result_that_nothing_makes_is_not_waited_for(vibetuner_worker: ManualWorker):
    """``result()`` fails when its task waits for its next try and nothing runs the worker."""
    task = await fails.enqueue(1)
    await vibetuner_worker.run_until_idle()

    with pytest.raises(AssertionError, match=f"{task.id} is scheduled, and nothing runs the wor"):
        await task.result()

    outcome, _ = await asyncio.gather(task.result(), vibetuner_worker.advance(minutes=1))
    assert outcome.result == "at last"


async def test_one_long_step_runs_all_tries_on_the_way(vibetuner_worker: ManualWorker):
    """A long step of the clock runs all tries of a task on its way."""
    await fails.enqueue(9)

    await vibetuner_worker.advance(minutes=7, cron=False)

    assert [text for text in ran if text.startswith("try")] == ["try 1", "try 2", "try 3"]
    [letter] = vibetuner_worker.dead_letters
    assert (letter.task_name, letter.tries, letter.error) == ("fails", 3, "not yet")


async def test_a_delay_and_a_time_need_no_sleeping(vibetuner_worker: ManualWorker):
    """The moved clock runs a delayed and a scheduled task, in the order of their times."""
    await note.enqueue("at").start(schedule=datetime.now(UTC) + timedelta(hours=3))
    await note.enqueue("after").start(delay=timedelta(hours=2))

    await vibetuner_worker.advance(hours=1, minutes=59)
    assert "after" not in ran
    await vibetuner_worker.advance(hours=2)

    assert [text for text in ran if text in {"at", "after"}] == ["after", "at"]


async def test_cron_follows_the_calendar(vibetuner_worker: ManualWorker):
    """A cron task runs once at each of its times, in order, whatever the step."""
    start = vibetuner_worker.now.replace(hour=8, minute=50, second=0) + timedelta(days=1)
    await vibetuner_worker.skip(seconds=(start - vibetuner_worker.now).total_seconds())
    await vibetuner_worker.run_until_idle()
    ran.clear()

    await vibetuner_worker.advance(minutes=5)
    assert ran == []
    await vibetuner_worker.advance(minutes=6)
    assert sorted(ran) == ["nine", "quarter"]
    ran.clear()
    await vibetuner_worker.advance(hours=2)

    assert ran == ["quarter"] * 8
    await vibetuner_worker.skip(days=1)
    await vibetuner_worker.run_until_idle()
    assert ran[8:] == ["nine"]  # late, where its drift allows that


async def test_steps_in_between_do_not_multiply_cron(vibetuner_worker: ManualWorker):
    """A cron task runs as often with many small steps, although the worker starts anew."""
    # The test's own seconds count too, so it begins well before the next quarter of an hour.
    now = vibetuner_worker.now
    await vibetuner_worker.advance_to(
        now.replace(minute=1, second=0) + timedelta(hours=1, minutes=now.minute // 15 * 15)
    )
    before = ran.count("quarter")
    for _ in range(12):
        await note.enqueue("in between")
        await vibetuner_worker.advance(minutes=5)

    assert ran.count("quarter") - before == 4


async def test_an_outage_is_time_without_a_worker(vibetuner_worker: ManualWorker):
    """`skip` is time without a worker: a task that expires meanwhile is not run."""
    await only_while_fresh.enqueue()
    await vibetuner_worker.skip(minutes=11)

    await vibetuner_worker.run_until_idle()

    assert "fresh" not in ran
    assert [letter.cause.value for letter in vibetuner_worker.dead_letters][-1] == "expired"


async def test_the_clock_goes_forward_only(vibetuner_worker: ManualWorker):
    """A step that is unknown, negative or without a time zone is refused."""
    for wrong in ({"dayz": 1}, {"days": "x"}, {"hours": 1e12}, {"days": float("nan")}):
        [(name, value)] = wrong.items()
        with pytest.raises(
            (TypeError, ValueError, OverflowError),
            match=f"such as days=2, .* not {name}={re.escape(repr(value))}$",
        ):
            await vibetuner_worker.advance(**wrong)
    with pytest.raises(ValueError, match=r"forward only, not by -60 s"):
        await vibetuner_worker.advance(minutes=-1)
    for time in (datetime(2030, 1, 1), "2030-01-01"):  # noqa: DTZ001
        with pytest.raises(ValueError, match="advance_to takes a time with a time zone"):
            await vibetuner_worker.advance_to(time)
    with pytest.raises(ValueError, match="forward only, from .* and not to 2020-01-01"):
        await vibetuner_worker.advance_to(datetime(2020, 1, 1, tzinfo=UTC))


async def test_wrong_arguments_are_refused_in_one_line(vibetuner_worker: ManualWorker):
    """Wrong arguments, and a step without a time, are refused in one line."""
    for move in (vibetuner_worker.advance, vibetuner_worker.skip):
        with pytest.raises(TypeError, match=r"by a span such as days=2, hours=1.5 or seconds=30$"):
            await move()
    for most in (-1, 2.5, "10"):
        with pytest.raises(
            ValueError, match=rf"most takes a whole number, 0 or more, not {most!r}"
        ):
            await vibetuner_worker.advance(minutes=1, most=most)
    for limit in (0, float("nan"), timedelta(seconds=5)):
        with pytest.raises(ValueError, match="limit takes seconds, such as 60, not "):
            await vibetuner_worker.run_until_idle(limit=limit)
    for times in (-1, "2", True):
        with pytest.raises(ValueError, match="times takes a whole number, 0 or more, not "):
            vibetuner_worker.assert_enqueued(note, times=times)
    with pytest.raises(TypeError, match=r"patterns such as 'shop:\*', not \['a'\]"):
        vibetuner_worker.allow_keys(["a"])


async def test_inline_runs_what_is_enqueued_at_once(vibetuner_worker: ManualWorker):
    """Inline, a task and those that it enqueues have run when `enqueue` returns."""
    async with vibetuner_worker.inline():
        await note_in_turn.enqueue(2)
        assert ran == ["2 left", "1 left", "0 left"]
        await tasks.enqueue_many([note.enqueue("one"), note.enqueue("two")])
        assert sorted(ran[3:]) == ["one", "two"]
        await note.enqueue("then").then(note, loud=True)
        assert ran[5:] == ["then", "then"]

    await note.enqueue("later")
    assert "later" not in ran


async def test_inline_serves_several_at_a_time(vibetuner_worker: ManualWorker):
    """Inline serves several enqueues at a time, as a web app does."""
    async with vibetuner_worker.inline():
        await asyncio.gather(*(note.enqueue(str(number)) for number in range(5)))
        assert sorted(ran) == list("01234")


async def test_only_what_was_enqueued_counts(vibetuner_worker: ManualWorker):
    """A call whose id is taken does not count as enqueued; a cron task's scheduled call does."""
    first, second = note.enqueue("a"), note.enqueue("b")
    first.id = second.id = "same"
    await first
    with pytest.raises(TaskExists):
        await second
    vibetuner_worker.assert_enqueued(note, times=1)

    await at_nine.enqueue().start(schedule=datetime.now(UTC) + timedelta(hours=1))
    vibetuner_worker.assert_enqueued(at_nine, times=1)


async def test_what_was_enqueued_can_be_asserted(vibetuner_worker: ManualWorker):
    """`assert_enqueued` compares task, arguments and number, before and after the run."""
    await note.enqueue("a", loud=True)
    await note.enqueue(text="b")
    await note_in_turn.enqueue(1)
    await vibetuner_worker.run_until_idle()
    check = vibetuner_worker.assert_enqueued

    check(note)
    check(note, times=2)
    check(note, args=("b",), times=1)
    check(note, args={"text": "a", "loud": True})
    check(note_in_turn, times=2)
    check(fails, times=0)
    assert [call.args for call in vibetuner_worker.enqueued][-1] == (0,)
    with pytest.raises(AssertionError, match=r"note\('c',\) should|note\('c'\) should") as raised:
        check(note, args=("c",))
    assert str(raised.value).splitlines() == [
        "note('c') should have been enqueued once or more, and was never.",
        "Enqueued: ",
        "  note('a', loud=True)",
        "  note(text='b')",
    ]
    with pytest.raises(
        AssertionError, match="fails should have been enqueued 3 times, and was never"
    ):
        check(fails, times=3)
    for wrong in ("b", 5):
        with pytest.raises(TypeError, match=re.escape(f"in a tuple: args=({wrong!r},)")):
            check(note, args=wrong)


async def test_what_can_not_have_been_enqueued_is_refused_or_never_was(
    vibetuner_worker: ManualWorker,
):
    """`assert_enqueued` refuses a name; arguments that don't fit were never enqueued."""
    with pytest.raises(TypeError, match="assert_enqueued takes a task, not 'note'"):
        vibetuner_worker.assert_enqueued("note")

    await note.enqueue("a")
    with pytest.raises(AssertionError, match="enqueued once or more, and was never"):
        vibetuner_worker.assert_enqueued(note, args=("a", "b", "c"))


async def test_the_results_are_there_the_latest_first(vibetuner_worker: ManualWorker):
    """`results` returns the latest first.

    The key check passes before and after a task that waits for another.
    """
    first = await note.enqueue("a")
    await note.enqueue("b", loud=True).start(after=first.id)
    await vibetuner_worker.check_keys()

    await vibetuner_worker.run_until_idle()

    assert [result.result for result in await vibetuner_worker.results()] == ["B", "a"]


async def test_a_task_that_does_not_end_is_named(vibetuner_worker: ManualWorker):
    """A task that does not end in time is named and aborted, and the next run works."""
    await never_ends.enqueue()
    with pytest.raises(AssertionError, match=r"^never_ends \w{32} did not end in time; aborted$"):
        await vibetuner_worker.run_until_idle(limit=0.5)

    await note.enqueue("next")
    await vibetuner_worker.run_until_idle()
    assert ran == ["next"]


async def test_a_cancelled_run_leaves_nothing_running(vibetuner_worker: ManualWorker):
    """A cancelled run leaves no task running, and the next run works."""
    await never_ends.enqueue()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await vibetuner_worker.run_until_idle()

    await note.enqueue("next")
    await vibetuner_worker.run_until_idle()
    assert ran == ["next"]


async def test_a_key_that_would_stay_for_ever_is_found(vibetuner_worker: ManualWorker):
    """`check_keys` names a key without a time to live, unless the test allows it."""
    await tasks.redis.set("shop:prices", "1")
    await tasks.redis.set("shop:cache", "1", ex=60)
    await note.enqueue("waiting").start(delay=60)
    with pytest.raises(AssertionError, match=r"^Left in Redis .* live: shop:prices\. Set one"):
        await vibetuner_worker.check_keys()
    vibetuner_worker.allow_keys("shop:*")
    await vibetuner_worker.check_keys()


@pytest.mark.parametrize("time", [1, 2])
async def test_no_test_sees_what_another_has_left(vibetuner_worker: ManualWorker, time: int):
    """A test sees neither the queue nor the clock of an earlier test."""

    @tasks.task()
    async def local() -> None:
        ran.append("local")

    assert abs(vibetuner_worker.now - datetime.now(UTC)) < timedelta(minutes=1)
    assert await tasks.queue_size(include_scheduled=False) == 0
    await vibetuner_worker.run_until_idle()
    assert ran == []
    await local.enqueue()
    await note.enqueue("waiting")
    await vibetuner_worker.skip(hours=3)


@tasks.task()
async def tell_the_date() -> str:
    return datetime.now(UTC).date().isoformat()


async def test_tasks_see_the_date_of_time_machine(vibetuner_worker: ManualWorker):
    """A task within time-machine sees its date, while retries and the queue go on."""
    with time_machine.travel("2030-01-01 12:00 +0000", tick=False):
        await tell_the_date.enqueue()
        await fails.enqueue(1)
        await vibetuner_worker.run_until_idle()
        await vibetuner_worker.advance(minutes=1, cron=False)
    results = {one.fn_name: one.result for one in await vibetuner_worker.results()}
    assert results == {"tell_the_date": "2030-01-01", "fails": "at last"}


async def test_freezegun_is_refused(vibetuner_worker: ManualWorker):
    """Within freezegun, whose event loop waits for ever, the worker refuses to run."""
    with freezegun.freeze_time("2030-01-01"):
        with pytest.raises(AssertionError, match=r"^freezegun stops .* time_machine\.travel"):
            await vibetuner_worker.run_until_idle()
        with pytest.raises(AssertionError, match=r"^freezegun stops"):
            await vibetuner_worker.advance(hours=1)


async def test_tasks_that_wait_at_the_end_are_no_leak(vibetuner_worker: ManualWorker):
    """Keys of waiting tasks may stay, whatever their ids look like, also those of unique tasks."""
    first, second = note.enqueue("a").start(delay=60), note.enqueue("b")
    first.id, second.id = "report:7", "sum:of:7"
    await second.start(after=first)
    await note.enqueue("c").start(delay=60).then(note)
    for delay in (None, 60, 60):
        await one_at_a_time.enqueue().start(delay=delay)
    assert await lasting_keys(get_worker(), ()) == []


async def test_a_unique_task_that_left_its_group_behind_is_a_leak(vibetuner_worker: ManualWorker):
    """The keys of a group of which no task waits are named."""
    task = await one_at_a_time.enqueue()
    await vibetuner_worker._engine.redis.delete(
        [vibetuner_worker._engine.client.keys.data(task.id)]
    )
    await vibetuner_worker.skip(cron=False, seconds=1)
    with pytest.raises(AssertionError, match="task:unique:one_at_a_time"):
        await vibetuner_worker.check_keys()
    vibetuner_worker.allow_keys("*:task:unique:one_at_a_time")


async def test_an_idempotency_key_ages_with_the_clock(vibetuner_worker: ManualWorker):
    """After `keep=`, an event is processed again; before, it is not. Results stay for the test."""
    for hours in (0, 1, 2):
        await vibetuner_worker.advance(hours=hours, cron=False)
        await note.enqueue("a").once("evt", keep=timedelta(hours=2))
        await vibetuner_worker.run_until_idle()
    assert ran == ["a", "a"]
    assert len(await vibetuner_worker.results()) == 2
