"""The dashboard's pages and actions."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient

from tests.projects import write_project
from tests.runtime.frontend.debug.conftest import HOSTILE, browsing, register
from tests.runtime.tasks.letters.conftest import keep, make_letter, payload_of
from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner import VibetunerApp
from vibetuner.config import Settings, get_settings, using_settings
from vibetuner.frontend.debug.pages import ChangeStream
from vibetuner.sse.hub import Hub
from vibetuner.tasks.dead_letters import discard, get
from vibetuner.tasks.queues import ReadOrder
from vibetuner.tasks.worker import TaskWorker, using_worker

HOME = "/debug/tasks"
PAGES = ("", "/list", "/cron", "/dead", "/dead/confirm?verb=retry")


async def until(look: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
    async def found() -> Any:
        answer = await look()
        return [answer] if holds(answer) else None

    return (await eventually(found))[0]


async def bury(worker: TaskWorker, *ids: str, **changes: Any) -> None:
    for task_id in ids:
        payload = await payload_of(worker, task_id, f="echo", task_id=task_id)
        values = {"task_name": "echo", "payload": payload, "args": [task_id], **changes}
        letter = make_letter(task_id, **values)
        await keep(worker.redis, get_settings().redis_key_prefix, letter)


async def test_every_page_works_before_any_worker_has_run(client: AsyncClient):
    """Every page works before any worker has run, and has a strict content policy.

    The overview warns that no worker is alive.
    """
    for path in PAGES:
        answer = await client.get(HOME + path)
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert answer.headers["cache-control"] == "no-store"
        assert " style=" not in answer.text
        assert "<script>" not in answer.text
        assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    assert "No worker is alive" in (await client.get(HOME)).text


async def test_the_overview_names_a_worker_with_other_code(
    client: AsyncClient,
    runner: TaskWorker,
    running,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """The overview names a live worker whose code is not that of the web process."""
    async with running(runner):
        seen = f"<code>{runner.id}</code>"
        shown = await until(lambda: client.get(HOME), lambda a: seen in a.text)
        assert "notice" not in shown.text
        monkeypatch.chdir(write_project(tmp_path / "changed", {"more.py": "MORE = 1"}))
        overview = (await client.get(HOME)).text
    assert f"{runner.id} runs other code (version 1.2.3) than is here; restart" in overview


async def test_a_task_is_watched_from_the_queue_to_its_end(
    client: AsyncClient, worker: TaskWorker, runner: TaskWorker, running
):
    """A task's page explains why it waits, and later shows its result; secrets are masked."""
    task = await worker.registry["echo"].enqueue("hello", password="hunter2")
    url = f"{HOME}/task/{task.id}"
    before = (await client.get(url)).text
    assert "No worker is running on the queue" in before
    assert "hunter2" not in before

    async with running(runner):
        text = (await until(lambda: client.get(url), lambda a: "badge done" in a.text)).text
        overview = (await client.get(HOME)).text
        schedule = (await client.get(f"{HOME}/cron")).text
        assert 'id="run-nightly"' in schedule  # by which htmx keeps the focus
    assert '<pre tabindex="0">hello</pre>' in text
    assert "Explanation" in before
    assert "Explanation" not in text
    assert f"<code>{runner.id}</code>" in overview
    assert "0 3 * * *" in schedule


async def test_the_progress_of_a_task_is_on_its_page(
    client: AsyncClient, worker: TaskWorker, runner: TaskWorker, running
):
    """A task's page shows its progress as a bar, whose event stream ends with the task.

    The page of a task without progress shows none.
    """
    async with running(runner):
        silent = await worker.registry["waits"].enqueue()
        task = await worker.registry["counts"].enqueue()
        url = f"{HOME}/task/{task.id}"
        text = (await until(lambda: client.get(url), lambda a: "25 %" in a.text)).text
        stream = f"{HOME}/progress/{task.id}"
        assert f'sse-connect="{stream}"' in text
        assert "&lt;b&gt;reading&lt;/b&gt;" in text
        other = (await client.get(f"{HOME}/task/{silent.id}")).text
        assert "<progress" not in other
        assert "sse-close" not in other

        assert await task.abort()
        await silent.abort()
        after = (await until(lambda: client.get(url), lambda a: "Cancelled" in a.text)).text
        assert "sse-close" not in after
        events = (await client.get(stream)).text  # ends by itself, as the task has ended
        assert "event: aborted" in events
        assert "&lt;b&gt;reading&lt;/b&gt;" in events
        assert events.rstrip().endswith("event: close\ndata:")
    assert (await client.get(f"{HOME}/progress/nobody")).status_code == 404


async def test_what_an_attacker_names_is_escaped(
    client: AsyncClient, worker: TaskWorker, runner: TaskWorker, running
):
    """A hostile task name, argument, error, filter or id is escaped on every page."""
    async with running(runner):
        task = await worker.registry[HOSTILE].enqueue('"><img src=x onerror=alert(1)>')
        await task.result(timeout=30)
        await bury(worker, f"{HOSTILE}-id", error=HOSTILE, task_name=HOSTILE, args=[HOSTILE])
        texts = [
            (await client.get(path)).text
            for path in (
                f"{HOME}/task/{task.id}",
                f"{HOME}/list?state=failed",
                f"{HOME}/list?name=%22%3E%3Cscript%3Ealert(1)",
                f"{HOME}/list?since=%3Cscript%3Ealert(1)",
                f"{HOME}/dead",
                f"{HOME}/task/%3Cscript%3Ealert(1)",
            )
        ]

    for text in texts:
        assert "<script>alert" not in text
        assert "<img" not in text
        assert '"><' not in re.sub(r'"><(?!script|img)', "", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in texts[0]


async def test_a_task_is_aborted_and_enqueued_again(
    client: AsyncClient, worker: TaskWorker, runner: TaskWorker, running
):
    """The buttons to abort, to enqueue again and to run a cron task lead to the task's page.

    The id may be the project's own, with a slash and a percent sign. The page fetches itself again.
    """
    async with running(runner):
        task = worker.registry["waits"].enqueue()
        task.id = "acme/20%25"
        url = f"{HOME}/task/acme/20%2525"
        await task
        page = await until(lambda: client.get(url), lambda a: "badge running" in a.text)
        assert f'hx-get="{url}"' in page.text
        ended = await client.post(f"{url}/abort")
        assert "The task has ended." in ended.text
        again = await client.post(f"{url}/abort")
        assert again.status_code == 409
        assert "has ended already" in again.text

        done = await worker.registry["echo"].enqueue("twice")
        await until(lambda: client.get(f"{HOME}/task/{done.id}"), lambda a: "again" in a.text)
        second = await client.post(f"{HOME}/task/{done.id}/again")
        assert "Enqueued. This is the new task." in second.text
        assert done.id not in str(second.url)

        night = await client.post(f"{HOME}/cron/run", data={"name": "nightly"})
        assert "Enqueued. This is the new task." in night.text
        missing = await client.post(f"{HOME}/cron/run", data={"name": "nobody"})
        assert missing.status_code == 404


async def test_one_dead_letter_is_retried_and_one_discarded(
    client: AsyncClient, worker: TaskWorker
):
    """A button retries or discards a dead letter, and a second action is refused."""
    await bury(worker, "d1", "d2")
    page = (await client.get(f"{HOME}/dead")).text
    assert "2 open, by bug" in page

    retried = await client.post(f"{HOME}/dead/d1/retry")
    assert "Enqueued again. This is the new task." in retried.text
    asked = (await client.get(f"{HOME}/dead/confirm?verb=discard&task_id=d2")).text
    assert "Discard 1 dead letter?" in asked
    assert f'action="{HOME}/dead/d2/discard"' in asked
    discarded = await client.post(f"{HOME}/dead/d2/discard")
    assert "No dead letters" in discarded.text
    refused = await client.post(f"{HOME}/dead/d2/retry")
    assert refused.status_code == 409
    assert "was discarded by the dashboard" in refused.text
    assert (await client.post(f"{HOME}/dead/d9/retry")).status_code == 404


async def test_an_error_without_a_message_is_named_by_its_class(
    client: AsyncClient, worker: TaskWorker
):
    """A letter's error and its group have the class, without a colon, if there is no message."""
    await bury(worker, "d1", error="", error_type="MemoryError")
    page = (await client.get(f"{HOME}/dead")).text
    assert page.count("MemoryError<") == 2
    assert "MemoryError:" not in page


@pytest.mark.parametrize("store", ["mongodb", "stream"])
async def test_a_group_and_then_all_are_settled_with_a_count_before(
    client: AsyncClient, worker: TaskWorker, store: str
):
    """A group of letters is settled after a question that names their number.

    The letters of another bug stay, and so does one that is added after the question.
    """
    settings = get_settings()
    url = settings.mongodb_url if store == "mongodb" else None
    with using_settings(settings.model_copy(update={"mongodb_url": url})):
        await bury(worker, *(f"a{n}" for n in range(5)), fingerprint="f1")
        await bury(worker, *(f"b{n}" for n in range(3)), fingerprint="f2")
        asked = await client.get(f"{HOME}/dead/confirm?verb=retry&fingerprint=f1")
        assert "Retry 5 dead letters?" in asked.text
        assert 'name="total" value="5"' in asked.text
        await bury(worker, "late", fingerprint="f1", failed_at=datetime.now(UTC))

        form = {"verb": "retry", "fingerprint": "f1", "total": "5"}
        begun = await client.post(f"{HOME}/dead/act", data=form)
        done = await until(lambda: client.get(str(begun.url)), lambda a: 'id="over"' in a.text)
        assert "Done: 5 retried" in done.text
        assert (await get("late")).is_open
        assert "4 open, by bug" in (await client.get(f"{HOME}/dead")).text
        await discard("late")

        begun = await client.post(f"{HOME}/dead/act", data={"verb": "discard", "total": "9"})
        await until(lambda: client.get(str(begun.url)), lambda a: "Done: 3 discarded" in a.text)
        assert "No dead letters" in (await client.get(f"{HOME}/dead")).text


async def test_no_action_is_taken_for_another_site(client: AsyncClient, worker: TaskWorker):
    """Every action for another site is refused, although the gate is open in development."""
    task = await worker.registry["echo"].enqueue("mine")
    foreign = {"Origin": "http://evil.test"}
    for path in (
        f"/task/{task.id}/abort",
        f"/task/{task.id}/again",
        "/cron/run",
        "/dead/act",
        "/dead/d1/retry",
        "/dead/d1/discard",
    ):
        answer = await client.post(HOME + path, headers=foreign, data={"name": "nightly"})
        assert answer.status_code == 403, path


@pytest.mark.parametrize("fault", ["frozen", "killed"])
async def test_a_redis_that_is_gone_gives_a_page_with_the_cure(
    worker: TaskWorker, settings: Settings, tmp_path: Path, fault: str
):
    """While Redis is gone, each page answers 503 with the cure, and a link to it, within seconds.

    Once Redis is back, so are the pages. There is no link to an action.
    """
    server = Valkey(tmp_path, lasting=False)
    server.start()
    own = settings.model_copy(update={"redis_url": server.url, "mongodb_url": None})
    try:
        async with browsing(own) as client:
            assert (await client.get(HOME)).status_code == 200
            server.freeze() if fault == "frozen" else server.kill()
            began = time.monotonic()
            answers = await asyncio.gather(*(client.get(HOME + path) for path in PAGES))
            spent = time.monotonic() - began
            if fault == "killed":
                action = await client.post(f"{HOME}/cron/run", data={"name": "nightly"})
                assert action.status_code == 503
                assert f'href="{HOME}">Overview' in action.text
            server.thaw() if fault == "frozen" else server.start()
            back = await until(lambda: client.get(HOME), lambda a: a.status_code == 200)
    finally:
        server.kill()

    for path, answer in zip(PAGES, answers, strict=True):
        assert answer.status_code == 503, path
        assert "be read</h1>" in answer.text
        assert "Start it, correct REDIS_URL" in answer.text
        assert f'href="{HOME}{path}">Try again' in answer.text
    assert spent < 10  # five are promised; this machine has other things to do
    assert "No worker is alive" in back.text


async def test_wrong_addresses_are_answered_in_words(client: AsyncClient):
    """A wrong cursor, state or time in an address gets an error page, and no 500."""
    for query in ("after=x", "state=dine", "since=yesterday"):
        answer = await client.get(f"{HOME}/list?{query}")
        assert answer.status_code == 400, query
        assert 'role="alert"' in answer.text
    for cursor in ("18446744073709551616-0", "%D9%A1-%D9%A1"):  # Redis refuses them as ids
        answer = await client.get(f"{HOME}/dead?after={cursor}")
        assert answer.status_code == 409, cursor
    assert (await client.get(f"{HOME}/task/nobody")).status_code == 404
    assert (await client.get(f"{HOME}/dead/job/nobody")).status_code == 404
    for name, kind in (("debug.css", "text/css"), ("debug.js", "text/javascript")):
        assert (await client.get(f"{HOME}/{name}")).headers["content-type"].startswith(kind)


async def test_an_open_page_hears_that_something_has_happened(
    client: AsyncClient, worker: TaskWorker
):
    """An open page gets an event when something has happened."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    with Hub().subscribe("a page") as subscriber:
        streaming = asyncio.create_task(ChangeStream().run(subscriber, heard.put))
        async with asyncio.timeout(60):
            assert await heard.get() == b""  # opens the stream
            # In case the page is older than the stream.
            assert await heard.get() == b"event: changed\ndata: \n\n"
            await worker.registry["echo"].enqueue("news")
            assert b"event: changed" in await heard.get()
        subscriber.close()
        await streaming


async def test_the_queues_are_listed_with_who_reads_them(stand_in, settings: Settings, running):
    """Several queues are listed, and one that no live worker reads is marked."""
    stand_in()
    names = ["critical", "default", "bulk"]
    app = VibetunerApp(queues=names)
    worker, reader = (register(TaskWorker(settings, lambda: app)) for _ in range(2))
    reader.order = ReadOrder.parse("critical,bulk")
    with using_worker(worker):
        async with browsing(settings) as client:
            echo = worker.registry["echo"]
            await echo.enqueue("a").start(priority="default")
            await echo.enqueue("b").start(priority="default", delay=3600)
            async with running(reader):
                read = re.compile(r'<td data-label="read by">(.*?)</td>')
                scheduled = re.compile(r'<td data-label="scheduled">(.*?)</td>')
                text = (
                    await until(
                        lambda: client.get(HOME),
                        # Beside the delayed one, the nightly one is scheduled.
                        lambda a: (
                            read.findall(a.text) == ["1", "no live worker", "1"]
                            and scheduled.findall(a.text) == ["0", "2", "0"]
                        ),
                    )
                ).text
    rows = text.partition("<h2>Queues</h2>")[2].partition("</table>")[0]
    assert re.findall(r"<code>(\w+)</code>", rows) == names
    assert re.findall(r'data-label="queued">(\d+)<', rows) == ["0", "1", "0"]


async def test_a_task_is_found_by_the_beginning_of_its_id(client: AsyncClient, worker: TaskWorker):
    """A search by the beginning of an id leads to the page of its task."""
    task = await worker.registry["echo"].enqueue("one that is looked for")
    answer = await client.get(f"{HOME}/list", params={"id": f" {task.id[:12]} "})
    assert answer.status_code == 200
    assert "one that is looked for" in answer.text
