"""Dead letters: each robust task that fails for good leaves one."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Command, free_port, freeze, vibetuner
from tests.projects import write_project
from tests.runtime.tasks.letters.test_retry import Trap
from tests.tour.conftest import running
from tests.waiting import eventually
from vibetuner.config import Settings, using_settings
from vibetuner.embedded import join, status
from vibetuner.errors import DeadLetterError, DeadLetterNotFound, ServiceUnavailable
from vibetuner.tasks.dead_letters import (
    Cause,
    count,
    discard,
    get,
    list_letters,
    open_dead_letters,
    retry,
)
from vibetuner.tasks.payload import KEPT, Kind
from vibetuner.tasks.robust import robust_cron, robust_task
from vibetuner.tasks.worker import TaskWorker, get_worker, open_queue
from vibetuner.testing import name_database

tasks = get_worker()
failures: dict[str, tuple[str, Exception]] = {}
charged: list[tuple[str, int]] = []
bank_is_open: list[bool] = []


def record_failure(name: str, task_id: str, error: Exception) -> None:
    failures[task_id] = (name, error)


@robust_task(max_retries=2, backoff_base=0.01, on_failure=record_failure)
async def send_invoice(customer: str, *, cents: int) -> None:
    raise ValueError(f"{customer} has no address")


@robust_task(max_retries=1, timeout=timedelta(milliseconds=50), on_failure=record_failure)
async def render_film() -> None:
    await asyncio.sleep(30)


@robust_task(max_retries=1, timeout=timedelta(milliseconds=50), on_failure=record_failure)
async def block_the_loop() -> None:
    time.sleep(6)  # noqa: ASYNC251 - that is the point
    await asyncio.sleep(30)


@robust_task(expire=timedelta(milliseconds=100), on_failure=record_failure)
async def remind(name: str) -> str:
    return f"reminded {name}"


@robust_task(unique=True, timeout=20, on_failure=record_failure)
async def rebuild_index() -> None:
    await asyncio.sleep(0.5)


@robust_cron("0 3 1 1 *", max_schedule_drift=timedelta(minutes=1), on_failure=record_failure)
async def new_year_offer() -> str:
    return "sent"


@robust_task(on_failure=record_failure)
async def pack(order: int) -> str:
    return f"packed {order}"


@robust_task(max_retries=1)
async def charge(customer: str, cents: int) -> str:
    """Charge a customer, or fail while the bank is closed."""
    if not bank_is_open:
        raise ConnectionError("the bank is closed")
    charged.append((customer, cents))
    return "paid"


@robust_task(max_retries=1)
async def sleepy() -> None:
    await asyncio.sleep(60)


@tasks.task()
async def measure() -> int:
    return 20


# Each cause of a dead letter.


async def test_an_exception_on_the_last_try(worker: TaskWorker):
    """The dead letter of an exception holds arguments, traceback, times, worker and queue."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    task = await send_invoice.enqueue("acme", cents=1200)
    await task.result(timeout=30)

    letter = await get(task.id)

    assert letter.task_name == "send_invoice"
    assert letter.task_id == task.id
    assert (letter.error_type, letter.error) == ("ValueError", "acme has no address")
    assert letter.cause is Cause.EXCEPTION
    assert letter.tries == 2
    assert (letter.args, letter.kwargs) == (["acme"], {"cents": 1200})
    assert letter.traceback.splitlines()[-1] == "ValueError: acme has no address"
    assert "in send_invoice" in letter.traceback
    assert letter.worker_id == worker.id
    assert letter.queue == worker.queue_name
    assert letter.enqueued_at is not None
    assert before <= letter.enqueued_at <= letter.failed_at <= datetime.now(UTC)
    assert letter.is_open
    await assert_failure_recorded(task.id, "send_invoice", ValueError)


async def test_a_timeout(worker: TaskWorker):
    """A timeout on the last try leaves a dead letter with the cause TIMEOUT."""
    task = await render_film.enqueue()
    await task.result(timeout=30)

    assert (await get(task.id)).cause is Cause.TIMEOUT
    await assert_failure_recorded(task.id, "render_film", TimeoutError)


@pytest.mark.slow
async def test_a_timeout_that_is_noticed_late(worker: TaskWorker):
    """A timeout has its cause even if a blocked event loop notices it late.

    By then, the engine's own limit is over, too, as in a process that was frozen.
    """
    task = await block_the_loop.enqueue()
    await task.result(timeout=30)

    assert (await get(task.id)).cause is Cause.TIMEOUT
    await assert_failure_recorded(task.id, "block_the_loop", TimeoutError)


async def test_a_task_that_kills_every_worker(servers: Any, tmp_path: Path):
    """A lost worker counts as a try; after the last one, the dead letter's cause is CRASHED."""
    with kiosk(servers.urls, tmp_path, KILLER) as (command, settings):
        with using_settings(settings):
            async with TaskWorker(settings) as queue:
                task = await queue.enqueue_unsafe("kill_worker", "till 3")
                await task.result(timeout=40)
            async with open_dead_letters():
                letter = await get(task.id)

        assert letter.cause is Cause.CRASHED
        assert (letter.task_name, letter.args, letter.tries) == ("kill_worker", ["till 3"], 2)
        assert "kill_worker" in (tmp_path / "failures").read_text()
        assert command.output.count("starting it again") == 2


async def test_a_task_that_waited_too_long_in_the_queue(servers: Any):
    """A task that expired in the queue leaves a dead letter, which a person can retry."""
    async with open_queue():
        task = await remind.enqueue("ann")
    await asyncio.sleep(0.2)

    async with running(get_worker()):
        await task.result(timeout=30)
        letter = await get(task.id)
        assert (letter.cause, letter.task_name, letter.args) == (Cause.EXPIRED, "remind", ["ann"])
        await assert_failure_recorded(task.id, "remind", Exception)

        again = await retry(task.id)
        result = await get_worker().result_by_id(again, timeout=30)

    assert result.result == "reminded ann"


async def test_a_task_of_a_function_that_no_worker_knows(worker: TaskWorker):
    """A task of an unknown function leaves a dead letter with its name and arguments."""
    task = await worker.enqueue_unsafe("long_gone", 1)
    await task.result(timeout=30)

    letter = await get(task.id)

    assert letter.cause is Cause.UNKNOWN_FUNCTION
    assert (letter.task_name, letter.args) == ("long_gone", [1])


async def test_a_payload_that_cannot_be_read(worker: TaskWorker):
    """An unreadable payload leaves a dead letter that keeps its bytes and can't be retried."""
    garbage = b"\x80garbage" * 5
    task = await pack.enqueue(1).start(delay=3)
    await worker.redis.set(worker.task_key + task.id, garbage)
    await task.result(timeout=30)

    letter = await get(task.id)

    assert letter.cause is Cause.UNREADABLE_PAYLOAD
    assert (letter.task_name, letter.args) == ("unknown", [])
    assert letter.payload == garbage[KEPT]
    with pytest.raises(DeadLetterError, match="can't be retried: its arguments can't be read"):
        await retry(task.id)


async def test_a_forged_payload_is_never_unpickled(worker: TaskWorker, tmp_path: Path):
    """A payload with a wrong signature is not unpickled by the worker, its letter or a retry."""
    trap = tmp_path / "unpickled"
    forged = pickle.dumps({"f": "pack", "a": Trap(trap), "k": {}, "t": 1}) + b"s" * 32
    task = await pack.enqueue(1).start(delay=3)
    await worker.redis.set(worker.task_key + task.id, forged)
    await task.result(timeout=30)

    assert (await get(task.id)).cause is Cause.UNREADABLE_PAYLOAD
    with pytest.raises(DeadLetterError, match="Invalid signature"):
        await retry(task.id)
    assert not trap.exists()


async def test_a_unique_task_that_meets_itself(worker: TaskWorker):
    """A unique task that clashes with its running twin leaves a dead letter of that cause."""
    first, second = await rebuild_index.enqueue(), await rebuild_index.enqueue()
    results = [await task.result(timeout=30) for task in (first, second)]

    (lost,) = [result.task_id for result in results if not result.success]

    assert (await get(lost)).cause is Cause.UNIQUE_CLASH
    await assert_failure_recorded(lost, "rebuild_index", Exception)


async def test_a_cron_task_that_comes_too_late(worker: TaskWorker):
    """A cron task that starts later than ``max_schedule_drift`` leaves a dead letter."""
    task = await new_year_offer.enqueue().start(schedule=datetime.now(UTC) - timedelta(hours=1))
    await task.result(timeout=30)

    assert (await get(task.id)).cause is Cause.CRON_DRIFT
    await assert_failure_recorded(task.id, "new_year_offer", Exception)


async def test_a_task_whose_dependency_failed(worker: TaskWorker):
    """A task whose dependency failed leaves a dead letter, and a person can retry it."""
    invoice = send_invoice.enqueue("acme", cents=1)
    after = await pack.enqueue(7).start(after=invoice)
    await after.result(timeout=30)

    letter = await get(after.id)
    assert (letter.cause, letter.args) == (Cause.FAILED_DEPENDENCY, [7])
    await assert_failure_recorded(after.id, "pack", Exception)

    again = await retry(after.id)
    assert (await worker.result_by_id(again, timeout=30)).result == "packed 7"


async def test_arguments_that_came_from_another_task_are_kept_too(worker: TaskWorker):
    """With ``a.then(b)``, the dead letter of b holds what a has returned."""
    first = measure.enqueue()
    second = await first.then(send_invoice, cents=5)
    await second.result(timeout=30)

    letter = await get(second.id)

    assert (letter.args, letter.kwargs) == ([20], {"cents": 5})
    again = await retry(second.id)
    result = await worker.result_by_id(again, timeout=30)
    assert str(result.exception) == "20 has no address"


async def test_a_dependency_whose_result_is_gone_ends_no_worker(worker: TaskWorker):
    """A task whose dependency has no result leaves a dead letter, and its worker goes on."""
    payload = {"f": "pack", "a": (), "k": {}, "t": 1, "A": "long-ago"}
    signed = worker.client.codec.seal(await worker.serialize(payload), Kind.CALL, "orphan")
    await worker.redis.set(worker.task_key + "orphan", signed)
    await worker.redis.xadd(worker.stream_key + "normal", {"task_id": "orphan"})
    await worker.result_by_id("orphan", timeout=30)

    letter = await get("orphan")
    assert (letter.cause, letter.task_name) == (Cause.FAILED_DEPENDENCY, "pack")
    await assert_failure_recorded("orphan", "pack", Exception)
    with pytest.raises(DeadLetterError, match="come from the result of long-ago"):
        await retry("orphan")
    assert (await (await pack.enqueue(1)).result(timeout=30)).result == "packed 1"


async def test_an_aborted_task_leaves_no_dead_letter(worker: TaskWorker):
    """A task that a person has aborted leaves no dead letter."""
    task = await sleepy.enqueue()
    await eventually(lambda: is_running(worker, task.id), what=lambda: "a running task")

    assert await task.abort() is True

    with pytest.raises(DeadLetterNotFound, match=f"no dead letter of {task.id}"):
        await get(task.id)


# The actions of a person.


async def test_the_same_bug_has_the_same_fingerprint(worker: TaskWorker):
    """Dead letters of one bug share a fingerprint, whatever their arguments and messages."""
    ids = [(await send_invoice.enqueue(name, cents=1)).id for name in ("acme", "zenith")]
    other = await render_film.enqueue()
    for task_id in (*ids, other.id):
        await worker.result_by_id(task_id, timeout=30)

    one, two, film = [await get(task_id) for task_id in (*ids, other.id)]

    assert one.fingerprint == two.fingerprint != film.fingerprint
    page = await list_letters(fingerprint=one.fingerprint, limit=1)
    assert page.letters[0].task_name == "send_invoice"


async def test_a_retry_runs_it_once_more_with_its_arguments(worker: TaskWorker):
    """A retry enqueues the task once, under a new id that the letter keeps.

    A second retry returns the same id, and a discard is refused.
    """
    task = await charge.enqueue("zenith", cents=990)
    await task.result(timeout=30)
    bank_is_open.append(True)

    first = await retry(task.id, by="ann")
    second = await retry(task.id, by="bob")

    assert first == second != task.id
    assert (await worker.result_by_id(first, timeout=30)).result == "paid"
    assert charged == [("zenith", 990)]
    letter = await get(task.id)
    assert (letter.retried_as, letter.acted_by) == (first, "ann")
    with pytest.raises(DeadLetterError, match=f"was retried as {first} by ann on .* UTC"):
        await discard(task.id)


async def test_a_discarded_letter_stays_on_record(worker: TaskWorker):
    """A discarded letter is no longer listed, keeps its record, and can't be retried."""
    task = await render_film.enqueue()
    await task.result(timeout=30)

    await discard(task.id, by="ann")
    await discard(task.id, by="bob")

    assert (await get(task.id)).acted_by == "ann"
    assert task.id not in [letter.task_id for letter in (await list_letters()).letters]
    with pytest.raises(DeadLetterError, match="was discarded by ann on .* UTC, so it is not"):
        await retry(task.id)


# The stores, and an outage of one.


async def test_without_mongodb_the_stream_is_the_store(settings: Settings):
    """Without MongoDB, dead letters are stored, counted and retried in Redis alone."""
    bare = {"mongodb_url": None, "redis_key_prefix": "tour-bare:"}
    with using_settings(settings.model_copy(update=bare)):
        async with running(get_worker()) as worker:
            task = await send_invoice.enqueue("acme", cents=1)
            await task.result(timeout=30)

            assert (await get(task.id)).error == "acme has no address"
            assert await count(task="send_invoice") == 1
            again = await retry(task.id)
            assert await retry(task.id) == again
            assert (await get(task.id)).retried_as == again
            await worker.result_by_id(again, timeout=30)
            assert [letter.task_id for letter in (await list_letters()).letters] == [again]


async def test_while_mongodb_is_away_nothing_is_lost_and_no_task_waits(
    settings: Settings, mongo: Mongo
):
    """While MongoDB is frozen, no task waits for it, and dead letters wait in Redis."""
    # Keys of its own: the groups of letters that Redis keeps belong to one MongoDB.
    own = {"mongodb_url": mongo.url, "redis_key_prefix": "tour-away"}
    with using_settings(Settings.model_validate(settings.model_dump() | own)):
        async with running(get_worker()) as worker:
            mongo.freeze()
            began = asyncio.get_running_loop().time()
            ids = [(await send_invoice.enqueue(str(n), cents=n)).id for n in range(20)]
            for task_id in ids:
                await worker.result_by_id(task_id, timeout=30)
            assert (await (await pack.enqueue(1)).result(timeout=30)).result == "packed 1"
            assert asyncio.get_running_loop().time() - began < 5

            mongo.thaw()
            assert [(await get(task_id)).args for task_id in ids] == [[str(n)] for n in range(20)]
            assert await count() == 20
            assert await worker.redis.xlen("tour-away:dead_letters") == 0


async def test_a_frozen_mongodb_is_reported(settings: Settings, mongo: Mongo):
    """`open_dead_letters()` raises ServiceUnavailable within 20 seconds while MongoDB is frozen."""
    with using_settings(settings.model_copy(update={"mongodb_url": mongo.url})):
        mongo.freeze()
        async with asyncio.timeout(60):
            with pytest.raises(ServiceUnavailable, match=r"^MongoDB at mongodb://.* can't be used"):
                async with open_dead_letters():
                    pass


class Mongo:
    """A MongoDB-protocol server that a test can freeze."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self._pid = pid

    def freeze(self) -> None:
        freeze(self._pid)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[Mongo]:
    """Yield a MongoDB-protocol server that no other test uses."""
    root = tmp_path / "mongo"
    root.mkdir()
    with join(root, ["mongodb"], command="pytest") as lease:
        (service,) = [service for service in status(root).services if service.name == "mongodb"]
        assert service.pid
        server = Mongo(name_database(lease.urls["mongodb"], "tour"), service.pid)
        try:
            yield server
        finally:
            server.thaw()


KILLER = """
    import os
    import signal
    from pathlib import Path

    from vibetuner.tasks.robust import robust_task


    def record_failure(name: str, task_id: str, error: Exception) -> None:
        Path("../failures").write_text(f"{name} {task_id}")


    @robust_task(max_retries=2, on_failure=record_failure)
    async def kill_worker(till: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def kiosk(urls: dict[str, str], folder: Path, jobs: str) -> Iterator[tuple[Command, Settings]]:
    """Run the production worker of a small project, and yield it with its settings."""
    tune = """
        from shop.jobs import kill_worker
        from vibetuner import VibetunerApp

        app = VibetunerApp(tasks=[kill_worker])
    """
    project = write_project(folder / "kiosk", {"jobs.py": jobs}, tune=tune)
    values = {
        "redis_url": urls["redis"],
        "mongodb_url": name_database(urls["mongodb"], "tour-killer"),
        "redis_key_prefix": "tour-killer",
        "secret_key": "a key that the kiosk share, and nobody else",
        "worker_idle_timeout": "1",
    }
    environment = {name.upper(): value for name, value in values.items()}
    log = folder / "log"
    with vibetuner(
        "run", "prod", "worker", "--workers", "2", "--port", str(free_port()),
        folder=project, log=log, environment=environment,
    ) as command:  # fmt: skip
        command.wait_for("worker ready")
        yield command, Settings(**values, environment="production")


@pytest.fixture(autouse=True)
def nothing_is_recorded() -> None:
    """Clear what earlier tests have recorded."""
    for recorded in (failures, charged, bank_is_open):
        recorded.clear()


async def assert_failure_recorded(task_id: str, name: str, kind: type[Exception]) -> None:
    """Assert that ``on_failure`` was called with the task's name, its id and the error."""
    await eventually(lambda: task_id in failures, what=lambda: f"on_failure of {name}")
    assert failures[task_id][0] == name
    assert isinstance(failures[task_id][1], kind)


async def is_running(worker: TaskWorker, task_id: str) -> bool:
    return (await worker.status_by_id(task_id)).value == "running"
