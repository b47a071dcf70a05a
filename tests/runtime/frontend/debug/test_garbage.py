"""With any value in our keys, every page opens and every command prints."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from httpx2 import AsyncClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.runtime.tasks.letters.conftest import keep, make_letter
from vibetuner.cli import letters, task_queue
from vibetuner.cli.checks.redis import check_records, check_redis
from vibetuner.config import Settings, using_settings
from vibetuner.errors import TaskNotFound
from vibetuner.project import project_info
from vibetuner.redis.keys import Keys
from vibetuner.stored import dump_record
from vibetuner.tasks.inspect.detail import find_task
from vibetuner.tasks.inspect.listing import list_tasks
from vibetuner.tasks.inspect.model import Filters as TaskFilters
from vibetuner.tasks.inspect.queue import this_queue
from vibetuner.tasks.inspect.stats import read_stats
from vibetuner.tasks.inspect.why import explain
from vibetuner.tasks.journal import Beat, Ended, FailedTry, Outcome, Started
from vibetuner.tasks.letters.letter import Filters
from vibetuner.tasks.worker import TaskWorker
from vibetuner.timing import now_ms

HOME = "/debug/tasks"
ID, WORKER, JOB = "0123456789abcdef", "w1", "j1"
NOW = now_ms()
ENTRY = f"{NOW}-0"

LETTER = make_letter(ID).to_json()
RECORDS: dict[str, str] = {
    "ended": dump_record(Ended(ID, "echo", Outcome.FAILED, NOW, NOW, NOW, NOW, 1, WORKER, "no")),
    "started": dump_record(Started(ID, "echo", 1, NOW, NOW)),
    "tried": dump_record(FailedTry(1, NOW, NOW, WORKER, "no")),
    "beat": dump_record(Beat(id=WORKER, at=NOW, counters={"failed": 1}, tasks=("echo",))),
    "letter": LETTER,
    "act": '{"at": "2026-01-01T00:00:00+00:00", "by": "ann", "retried_as": null}',
    "group": json.dumps(
        {"fingerprint": "f1", "task": "echo", "cause": "exception", "error": "no", "count": 2,
         "first": "2026-01-01T00:00:00+00:00", "last": "2026-01-01T00:00:00+00:00"}
    ),
    "job": json.dumps({"id": JOB, "verb": "retry", "fingerprint": None, "total": 3}),
    "number": "12",
}  # fmt: skip

scalars = (
    st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats()
    | st.text(max_size=20) | st.sampled_from(["\x00", "<b>", "9999-99-99", "1970-01-01", "%s{}"])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw our records, of which one has a wrong field, or is no record at all."""
    name = draw(st.sampled_from(sorted(RECORDS)))
    record = json.loads(RECORDS[name])
    if draw(st.booleans()) and isinstance(record, list | dict):
        fields = list(range(len(record))) if isinstance(record, list) else sorted(record)
        place = draw(st.sampled_from(fields))
        if draw(st.integers(0, 4)):
            record[place] = draw(values)
        else:
            del record[place]
        text = json.dumps(record).encode()
    else:
        text = draw(st.binary(max_size=30) | values.map(lambda one: json.dumps(one).encode()))
    known = {one: content.encode() for one, content in RECORDS.items()}
    return {**known, name: text}


async def write(redis: Any, keys: Keys, what: dict[str, bytes]) -> None:
    """Fill every key of ours."""
    journal = keys.journal
    about = json.dumps({name: json.loads(LETTER)[name] for name in (
        "task_id", "task_name", "cause", "fingerprint", "error", "error_type", "failed_at"
    )})  # fmt: skip
    async with redis.pipeline(transaction=False) as pipe:
        pipe.xadd(keys.letters, {"letter": what["letter"], "about": about}, identifier=ENTRY)
        pipe.xadd(keys.letters, {"letter": what["letter"]}, identifier=f"{NOW}-1")
        pipe.hset(keys.letter_places, {ID: what["number"], "other": ENTRY})
        pipe.hset(keys.letter_groups, {"f1": what["group"], "f2": what["group"]})
        pipe.hset(keys.acted, {"other": what["act"]})
        pipe.set(keys.act(ID), what["act"])
        pipe.xadd(journal.ended, {"d": what["ended"]}, identifier=ENTRY)
        pipe.xadd(journal.of("echo"), {"s": what["number"]}, identifier=ENTRY)
        pipe.xadd(
            journal.failed, {"s": "failed", "n": "echo", "t": what["number"]}, identifier=ENTRY
        )
        pipe.xadd(journal.payloads, {"p": what["number"]}, identifier=ENTRY)
        pipe.hset(journal.ids, {ID: ENTRY, "other": what["number"]})
        pipe.rpush(journal.tries(ID), [what["tried"]])
        pipe.zadd(journal.names, {what["number"]: NOW})
        pipe.zadd(journal.workers, {WORKER: NOW})
        pipe.set(journal.worker(WORKER), what["beat"])
        pipe.hset(journal.running(WORKER), {ID: what["started"]})
        pipe.hset(
            journal.minute(NOW), {"done": what["number"], what["number"] or b"x": "1", "w5": "2"}
        )
        pipe.hset(journal.quarter(NOW), {"r9": what["number"], "rx": "1", "": "2"})
        pipe.hset(journal.cron, {"nightly": what["number"]})
        pipe.set(journal.pulse, what["number"])
        pipe.set(keys.journal.job(JOB), what["job"])
        pipe.hset(keys.cron_tabs, {"nightly": what["number"]})
        pipe.zadd(keys.cron_schedule, {"nightly": float("inf")})
        pipe.zadd(keys.delayed("default"), {"later": float("-inf"), "soon": 1e300})


async def open_all(client: AsyncClient) -> list[int]:
    """Return the status of every page."""
    found = []
    for path in (
        "", "/list", "/list?state=failed", "/list?name=echo", "/list?state=unreadable", "/cron",
        "/dead", "/dead?fingerprint=f1", f"/task/{ID}", "/task/other", f"/dead/job/{JOB}",
    ):  # fmt: skip
        found.append((await client.get(HOME + path)).status_code)
    return found


async def print_all() -> str:
    """Return the output of every command."""
    queue, out = this_queue(), io.StringIO()
    with redirect_stdout(out):
        page = await list_tasks(queue, TaskFilters())
        task_queue.print_page(page)
        task_queue.print_page(page, as_json=True)
        stats = await read_stats(queue)
        task_queue.print_stats(stats)
        task_queue.print_stats(stats, as_json=True)
        for task_id in (ID, "other"):
            try:
                detail = await find_task(queue, task_id)
                task_queue.print_detail(detail)
                task_queue.print_detail(detail, as_json=True)
                task_queue.print_reasons(*await explain(queue, task_id))
            except TaskNotFound as error:
                print(error)
        found, total = await letters.fetch(Filters(open_only=False), 50)
        letters.print_list(found, total)
        letters.print_list(found, total, as_json=True)
        for letter in found.letters:
            letters.print_letter(letter)
    return out.getvalue()


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """Use settings without MongoDB, so that letters stay in Redis."""
    own = settings.model_copy(update={"mongodb_url": None})
    with using_settings(own):
        yield own


# Each example opens eleven pages and runs every command; `just fuzz` goes on for as long as it may.
@given(what=spoiled())
@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_one_record_that_is_not_ours_turns_no_page_into_an_error(
    settings: Settings, client: AsyncClient, worker: TaskWorker, what: dict[str, bytes]
):
    """A malformed record causes no error on any page, in any command or in the doctor."""
    await worker.redis.flushdb()
    await write(worker.redis, Keys(settings.redis_key_prefix), what)

    assert set(await open_all(client)) <= {200, 404}
    (await print_all()).encode()
    await check_records(worker.redis, settings.redis_key_prefix)


async def test_what_cannot_be_read_is_shown_and_counted(
    settings: Settings, client: AsyncClient, worker: TaskWorker
):
    """Pages and lists show each unreadable record, and the doctor reports their number."""
    keys = Keys(settings.redis_key_prefix)
    await worker.redis.xadd(keys.journal.ended, {"d": '["x"]'}, identifier=ENTRY)
    await worker.redis.xadd(keys.letters, {"letter": '{"failed_at": 5}'}, identifier=ENTRY)
    await keep(worker.redis, settings.redis_key_prefix, make_letter(ID))

    assert f"Entry {ENTRY} of the journal can" in (await client.get(f"{HOME}/list")).text
    dead = (await client.get(f"{HOME}/dead")).text
    assert ENTRY in dead
    assert ID in dead
    assert "This letter is damaged" in dead
    printed = await print_all()
    assert f"{ENTRY}  unreadable" in printed
    assert "unreadable" in printed.splitlines()[0]
    found = [one.text for one in await check_records(worker.redis, keys.prefix)]
    assert [text[: text.index(" can't")] for text in found] == [
        "1 of the newest dead letters", "1 of the newest ended tasks",
    ]  # fmt: skip


LETTER_KEYS = ("letters", "acted", "letter_groups", "letter_places")
JOURNAL_KEYS = ("ended", "failed", "payloads", "ids", "names", "workers", "cron", "pulse", "queues")
QUEUE_KEYS = (
    "results", "in_line", "cron_schedule", "running", "aborted", "failing", "unique", "made",
    "cron_tabs", "cron_queues",
)  # fmt: skip


@pytest.mark.parametrize("name", [*LETTER_KEYS, *QUEUE_KEYS, *JOURNAL_KEYS])
async def test_a_key_of_another_type_is_named(
    name: str, settings: Settings, client: AsyncClient, worker: TaskWorker
):
    """A key of another type leads to a 503 at most, and the doctor names the key."""
    keys = Keys(settings.redis_key_prefix)
    await keep(worker.redis, settings.redis_key_prefix, make_letter(ID))
    key = getattr(keys.journal if name in JOURNAL_KEYS else keys, name)
    await worker.redis.delete([key])
    await worker.redis.lpush(key, ["x"])

    assert set(await open_all(client)) <= {200, 404, 503}
    (found,) = await check_records(worker.redis, keys.prefix)
    assert found.text.startswith(f"{key} is a list and should be a ")


@pytest.mark.parametrize("kind", ["stream", "delayed"])
@pytest.mark.parametrize("queue", ["normal", "bulk", "removed"])
async def test_a_queue_of_another_type_is_named(
    kind: str, queue: str, settings: Settings, client: AsyncClient, worker: TaskWorker
):
    """A queue's key of another type is named by the doctor, which completes its checks.

    No worker can read any queue beside it.
    """
    keys = Keys(settings.redis_key_prefix)
    await worker.redis.zadd(keys.journal.queues, {"bulk": 1})
    await worker.redis.hset(keys.made, {"removed": "1"})
    key = getattr(keys, kind)(queue)
    await worker.redis.delete([key])
    await worker.redis.lpush(key, ["x"])

    assert set(await open_all(client)) <= {200, 404, 503}
    findings = await check_redis(settings, project_info())
    (found,) = [one for one in findings if one.area == "records"]
    assert found.text.startswith(f"{key} is a list and should be a ")
