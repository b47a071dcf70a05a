"""Progress of real workers, through real web processes, in a browser and a terminal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from tests.browsers import EventSource, listening
from tests.processes import (
    Command,
    Site,
    children_of,
    free_port,
    run_vibetuner,
    vibetuner,
    wait_for_http,
    wait_until,
)
from tests.projects import write_project
from vibetuner.embedded import Lease

pytestmark = pytest.mark.slow

JOBS = """
    import asyncio
    import os
    import signal

    from streaq import TaskStatus
    from vibetuner.tasks.attempt import current_task_id
    from vibetuner.tasks.progress import Progress
    from vibetuner.tasks.worker import get_worker

    worker = get_worker()
    deaths = []


    @worker.task()
    async def count(steps: int, pause: float) -> None:
        progress = Progress(message="counting <b>sheep</b>")
        async for _ in progress.track(range(steps)):
            await asyncio.sleep(pause)


    @worker.task(max_tries=1)
    async def doomed() -> None:
        await Progress(total=2).advance()
        await asyncio.sleep(3600)


    @worker.task()
    async def unpublished() -> None:
        task_id = current_task_id()

        async def die_when_recorded() -> None:
            while await worker.status_by_id(task_id) is not TaskStatus.DONE:
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)

        deaths.append(asyncio.create_task(die_when_recorded()))


    @worker.task()
    async def fail() -> None:
        await Progress(total=2).advance()
        raise ValueError("the till is empty")
"""
ROUTES = """
    from fastapi import APIRouter, HTTPException

    from shop import jobs
    from vibetuner.config import get_settings
    from vibetuner.sse.history import History
    from vibetuner.tasks.progress import ProgressState, progress_endpoint
    from vibetuner.tasks.progress.state import read_progress
    from vibetuner.tasks.worker import get_worker

    router = APIRouter()


    @router.get("/known/{task_id}")
    async def known(task_id: str) -> dict[str, bool]:
        worker = get_worker()
        history = History(worker.redis, get_settings())
        state, _ = await read_progress(history, task_id)
        return {
            "recorded": await worker.status_by_id(task_id) == "done",
            "published": state is not None and state.is_over,
        }


    @router.post("/start/{name}")
    async def start(name: str, arguments: list[float]) -> str:
        return (await getattr(jobs, name).enqueue(*map(float, arguments))).id


    @progress_endpoint("/bar/{task_id}", router=router)
    async def bar(task_id: str) -> str:
        '''How far a task is.'''
        if task_id == "secret":
            raise HTTPException(403, "not yours")
        return task_id


    @progress_endpoint("/json/{task_id}", router=router, render=ProgressState.to_json)
    def as_json(task_id: str) -> str:
        return task_id
"""
TUNE = """
    from shop.jobs import count, doomed, fail, unpublished
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(tasks=[count, doomed, fail, unpublished], routes=[router], openapi=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project with tasks that report progress."""
    jobs = JOBS.replace("range(steps)", "range(int(steps))")
    files = {"jobs.py": jobs, "routes.py": ROUTES}
    return write_project(tmp_path_factory.mktemp("shop"), files, tune=TUNE)


@pytest.fixture(scope="module")
def environment(servers: Lease) -> dict[str, str]:
    """Return the environment of the project, with a queue of its own."""
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"test-{uuid4().hex[:12]}",
        "SECRET_KEY": "a key that the tests share, and nobody else",
        "ENVIRONMENT": "test",
        "WORKER_IDLE_TIMEOUT": "2",
    }


@pytest.fixture(scope="module")
def site(
    folder: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Yield the project's running web process."""
    port, log = free_port(), tmp_path_factory.mktemp("web") / "log"
    with vibetuner(
        "run", "prod", "frontend", "--port", str(port),
        folder=folder, log=log, environment=environment,
    ) as command:  # fmt: skip
        wait_for_http(f"http://127.0.0.1:{port}/health", seconds=90)
        yield Site(command, f"http://127.0.0.1:{port}")


@pytest.fixture
def start_worker(folder: Path, environment: dict[str, str], tmp_path: Path):
    """Return a function that runs a worker: ``with start_worker() as command:``."""

    def start():
        log = tmp_path / f"{uuid4().hex}.log"
        return vibetuner(
            "run", "prod", "worker", "--port", str(free_port()),
            folder=folder, log=log, environment=environment,
        )  # fmt: skip

    return start


def start(site: Site, name: str, *arguments: float) -> str:
    """Enqueue a task by the site, and return its id."""
    answer = httpx2.post(f"{site.url}/start/{name}", json=arguments, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json())


def known(site: Site, task_id: str) -> dict[str, bool]:
    """Return whether the queue has recorded a task's end, and whether that was published."""
    answer: dict[str, bool] = httpx2.get(f"{site.url}/known/{task_id}", timeout=30).json()
    return answer


def is_recorded(site: Site, task_id: str) -> bool:
    """Return whether the queue has recorded a task's end."""
    return known(site, task_id)["recorded"]


def kill(command: Command) -> None:
    """Kill a process and its children."""
    for pid in children_of(command.process.pid):
        os.kill(pid, signal.SIGKILL)
    command.process.kill()
    command.process.wait(60)


def done(source: EventSource) -> list[int]:
    """Return the numbers of the progress events that a browser has got."""
    return [json.loads(e.data)["done"] for e in source.events if e.name == "progress"]


def test_the_stream_begins_with_the_state_and_ends_with_the_task(site: Site, start_worker):
    """A stream begins with the current state, be it before, during or after the task's run.

    It closes with the task's end, and a reconnection gets 204.
    """
    task_id = start(site, "count", 20, 0.1)
    with listening(f"{site.url}/json/{task_id}") as early:
        early.wait_for(1)
        assert json.loads(early.events[0].data)["status"] == "queued"
        with start_worker():
            wait_until(lambda: done(early)[-1] >= 5, seconds=60)
            with listening(f"{site.url}/json/{task_id}") as late:
                late.wait_for(1)
                assert done(late)[0] >= 5
                for source in (early, late):
                    source.wait_until_over(60)
                    assert [e.name for e in source.events][-2:] == ["complete", "close"]
                    assert json.loads(source.events[-2].data)["percent"] == 100
                    assert source.status == 204
                    assert done(source) == sorted(done(source))
    with listening(f"{site.url}/json/{task_id}") as after:
        after.wait_until_over()
        assert [e.name for e in after.events] == ["complete", "close"]


def test_the_bar_is_rendered_and_its_message_escaped(site: Site, start_worker):
    """An endpoint without `render=` sends a bar in HTML, in which the message is escaped."""
    task_id = start(site, "count", 5, 0.1)
    with start_worker(), listening(f"{site.url}/bar/{task_id}") as browser:
        browser.wait_until_over(60)
        html = browser.events[-2].data
        assert 'value="100"' in html
        assert "5 of 5" in html
        assert "counting &lt;b&gt;sheep&lt;/b&gt;" in html


@pytest.mark.parametrize("name", ["nobody", "a%20b", "x" * 201])
def test_a_browser_gets_an_end_for_an_unknown_task(site: Site, name: str):
    """The stream of an unknown task ends, because htmx would reconnect after a 404 for ever."""
    with listening(f"{site.url}/json/{name}") as browser:
        browser.wait_until_over()
        assert browser.status == 204
    [end, close] = browser.events
    assert (end.name, json.loads(end.data)["status"]) == ("unknown", "unknown")
    assert close.name == "close"
    with listening(f"{site.url}/bar/{name}") as page:
        page.wait_until_over()
        assert "Unknown" in page.events[0].data
        assert "<progress" not in page.events[0].data


def test_an_endpoint_refuses_before_it_streams(site: Site):
    """The endpoint's own error, an unknown task and a wrong id are answered before the stream."""
    assert httpx2.get(f"{site.url}/bar/secret", timeout=30).json() == {"detail": "not yours"}
    for name in ("nobody", "a%20b", "x" * 201):
        assert httpx2.get(f"{site.url}/bar/{name}", timeout=30).status_code == 404
    described = httpx2.get(f"{site.url}/openapi.json", timeout=30).json()["paths"][
        "/bar/{task_id}"
    ]["get"]
    assert list(described["responses"]["200"]["content"]) == ["text/event-stream"]


def test_the_end_is_published_though_the_worker_is_killed_in_the_middle(site: Site, start_worker):
    """A stream stays open after its worker is killed, and ends when another has run the task."""
    task_id = start(site, "count", 12, 0.25)
    with listening(f"{site.url}/json/{task_id}") as browser:
        with start_worker() as first:
            wait_until(lambda: done(browser) and done(browser)[-1] >= 2, seconds=60)
            kill(first)
        with start_worker():
            browser.wait_until_over(90)
            assert browser.events[-2].name == "complete"
            assert json.loads(browser.events[-2].data)["done"] == 12


def test_a_task_that_has_lost_its_worker_for_good_has_failed(site: Site, start_worker):
    """A task without another try, whose worker was killed, publishes `failed`."""
    task_id = start(site, "doomed")
    with listening(f"{site.url}/json/{task_id}") as browser:
        with start_worker() as first:
            wait_until(lambda: done(browser) and done(browser)[-1] == 1, seconds=60)
            kill(first)
        with start_worker():
            browser.wait_until_over(90)
            assert [e.name for e in browser.events][-2:] == ["failed", "close"]


def test_a_watcher_notices_an_end_that_its_worker_could_not_publish(site: Site, start_worker):
    """A stream ends although the worker was killed after it had recorded the task's end."""
    for _ in range(5):  # a machine with other things to do may let the worker be quicker
        task_id = start(site, "unpublished")
        with listening(f"{site.url}/json/{task_id}") as browser:
            with start_worker() as worker:
                wait_until(partial(is_recorded, site, task_id), seconds=60)
                kill(worker)
            was_published = known(site, task_id)["published"]
            browser.wait_until_over(60)
            assert [e.name for e in browser.events][-2:] == ["complete", "close"]
        if not was_published:
            return
    raise AssertionError("the worker has always published the end itself")


def test_a_terminal_shows_the_same(
    site: Site, start_worker, folder: Path, environment: dict[str, str]
):
    """`tasks watch` prints lines, or JSON with `--json`, and its exit code reports the end."""
    task_id, bad = start(site, "count", 10, 0.2), start(site, "fail")
    with start_worker():
        shown = run_vibetuner("tasks", "watch", task_id, folder=folder, **environment)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.splitlines()[-1] == "done 100 % 10 of 10, counting <b>sheep</b>"
        failed = run_vibetuner("tasks", "watch", bad, "--json", folder=folder, **environment)
        assert failed.returncode == 1, failed.stderr
        assert json.loads(failed.stdout.splitlines()[-1])["status"] == "failed"
        unknown = run_vibetuner("tasks", "watch", "nobody", folder=folder, **environment)
        assert unknown.returncode == 3
        assert unknown.stderr.startswith("error: There is no task nobody")
        assert "Traceback" not in unknown.stderr


def test_ctrl_c_leaves_the_task_alone(
    site: Site, folder: Path, environment: dict[str, str], tmp_path: Path
):
    """Ctrl-C ends `tasks watch` with exit code 130, and the task stays queued."""
    task_id = start(site, "count", 1, 0)
    with vibetuner(
        "tasks", "watch", task_id, folder=folder, log=tmp_path / "log", environment=environment
    ) as command:
        command.wait_for("waiting", seconds=60)
        assert command.stop(signal.SIGINT) == 130
        assert "Traceback" not in command.output
    with listening(f"{site.url}/json/{task_id}") as browser:
        browser.wait_for(1)
        assert json.loads(browser.events[0].data)["status"] == "queued"
