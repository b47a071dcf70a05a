"""Progress bars and live events survive interruptions between browser and task."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx2
import pytest

from tests.e2e.conftest import expect
from tests.processes import (
    Command,
    children_of,
    clean_environment,
    free_port,
    start_group,
    vibetuner,
    wait_for_http,
    wait_until,
)
from tests.projects import write_project
from vibetuner.embedded import Lease

if TYPE_CHECKING:
    from playwright import sync_api as playwright

pytestmark = pytest.mark.slow

DEMO_ORDERS = 10_000
PATIENCE = 90_000  # milliseconds; the machine may be busy


class Breakpoints:
    """Holds an export at some numbers of rows until the test releases it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def hold_at(self, *rows: int) -> None:
        for count in rows:
            (self.folder / f"hold-{count}").touch()

    def release(self, rows: int) -> None:
        (self.folder / f"hold-{rows}").unlink()

    def wait_for(self, rows: int) -> None:
        """Wait until the task has written so many rows."""
        wait_until((self.folder / f"reached-{rows}").exists, seconds=60, what=lambda: f"{rows}")

    def reset(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


HOLD = """

async def _hold(done: int) -> None:
    folder = Path({folder!r})
    (folder / f"reached-{{done}}").touch()
    while (folder / f"hold-{{done}}").exists():
        await asyncio.sleep(0.02)
"""


@pytest.fixture(scope="module")
def slow_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the generated project, with exports that the tests can hold."""
    folder = tmp_path_factory.mktemp("slow") / project.name
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".venv", ".vibetuner"))
    (folder / ".venv").symlink_to(project / ".venv")
    holds = folder.parent / "breakpoints"
    holds.mkdir()
    [tasks] = folder.glob("src/*/tasks/exports.py")
    text = tasks.read_text("utf-8")
    held = text.replace("await asyncio.sleep(PAUSE_SECONDS)", "await _hold(progress.done)")
    held = held.replace("import asyncio\n", "import asyncio\nfrom pathlib import Path\n", 1)
    assert "_hold" in held
    assert "from pathlib" in held
    tasks.write_text(held + HOLD.format(folder=str(holds)), "utf-8")
    return folder


@pytest.fixture
def breakpoints(slow_project: Path) -> Iterator[Breakpoints]:
    """Yield breakpoints that hold nothing, at the start and after the test."""
    breakpoints = Breakpoints(slow_project.parent / "breakpoints")
    yield breakpoints
    breakpoints.reset()


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Command]:
    """Run ``vibetuner run dev …`` beside the block, in a process group of its own."""
    command = start_group(
        *(folder / ".venv/bin/python", "-m", "vibetuner", "run", "dev", *arguments),
        folder=folder,
        log=folder / f"{arguments[0]}.log",
        environment=clean_environment(),
    )
    try:
        yield command
    finally:
        command.stop(seconds=60)


@pytest.fixture(scope="module")
def worker(slow_project: Path) -> Iterator[Command]:
    """Run one worker for all tests of the module."""
    with running(slow_project, "worker", "--port", str(free_port())) as command:
        command.wait_for("worker ready", seconds=90)
        yield command


@pytest.fixture(scope="module")
def web(slow_project: Path, worker: Command) -> Iterator[int]:
    """Yield the port of a web process for the tests that don't kill it."""
    port = free_port()
    with serving(slow_project, port):
        yield port


@contextmanager
def serving(folder: Path, port: int) -> Iterator[Command]:
    """Run a web process at ``port`` beside the block."""
    with running(folder, "frontend", "--port", str(port)) as command:
        wait_for_http(f"http://127.0.0.1:{port}/health", seconds=90)
        yield command


def kill(command: Command) -> None:
    """Kill a command and its children by SIGKILL, as the kernel does when memory is short."""
    victims = {*children_of(command.process.pid), command.process.pid}
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    command.process.wait(60)


@pytest.fixture
def tab(browser: playwright.Browser) -> Iterator[playwright.Page]:
    """Yield a tab of the browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    yield page
    context.close()


def start_export(tab: playwright.Page, url: str) -> playwright.Locator:
    """Open the page, start an export, and return its card once the bar has moved."""
    tab.goto(url)
    tab.evaluate("window.neverReloaded = true")
    tab.get_by_role("button", name="Start an export").click()
    card = tab.locator("#exports article").first
    expect(card).to_contain_text("Running", timeout=PATIENCE)
    wait_until(lambda: bar(card) >= 20, seconds=60, what=card.inner_text)
    return tab.locator(f"#{card.get_attribute('id')}")


def bar(card: playwright.Locator) -> int:
    """Return the position of the bar."""
    value = card.evaluate("card => card.querySelector('progress')?.getAttribute('value')")
    return int(value or 0)


def ends_well(tab: playwright.Page, card: playwright.Locator, folder: Path) -> None:
    """Assert that the export completes, the page was not reloaded, and the file is whole."""
    expect(card).to_contain_text("Done", timeout=PATIENCE)
    expect(card).to_contain_text("10,000 orders")
    expect(card.get_by_role("progressbar")).to_have_attribute("value", "100")
    assert tab.evaluate("window.neverReloaded") is True
    with tab.expect_download() as download:
        card.get_by_role("link", name="Download").click()
    file = folder / "downloaded.csv"
    download.value.save_as(file)
    with file.open(encoding="utf-8", newline="") as lines:
        _, *rows = csv.reader(lines)
    assert len({row[0] for row in rows}) == DEMO_ORDERS


def test_the_web_process_is_killed_in_the_middle_and_started_again(
    slow_project: Path, worker: Command, tab: playwright.Page, breakpoints: Breakpoints
):
    """After SIGKILL and a restart of the web process, the bar completes without a reload."""
    port = free_port()
    breakpoints.hold_at(2500, 7500)
    with serving(slow_project, port) as web:
        card = start_export(tab, f"http://127.0.0.1:{port}/")
        kill(web)
    breakpoints.release(2500)
    breakpoints.wait_for(7500)
    assert bar(card) <= 25
    with serving(slow_project, port):
        wait_until(lambda: bar(card) >= 70, seconds=90, what=card.inner_text)
        breakpoints.release(7500)
        ends_well(tab, card, slow_project)


def test_a_page_that_is_loaded_in_the_middle_shows_the_state_at_once(
    web: int,
    slow_project: Path,
    tab: playwright.Page,
    browser: playwright.Browser,
    breakpoints: Breakpoints,
):
    """A page that is loaded during an export shows its state at once, and both pages complete."""
    breakpoints.hold_at(2500)
    card = start_export(tab, f"http://127.0.0.1:{web}/")
    breakpoints.wait_for(2500)
    context = browser.new_context()
    late = context.new_page()
    late.goto(f"http://127.0.0.1:{web}/")
    late.evaluate("window.neverReloaded = true")
    late_card = late.locator(f"#{card.get_attribute('id')}")
    assert bar(late_card) == 25
    breakpoints.release(2500)
    ends_well(tab, card, slow_project)
    ends_well(late, late_card, slow_project)
    context.close()


@pytest.mark.parametrize("way", ["offline", "wire"])
def test_the_network_is_cut_and_restored(
    web: int, slow_project: Path, tab: playwright.Page, breakpoints: Breakpoints, way: str
):
    """After a browser was offline, or its connections were cut, the bar completes."""
    failed: list[str] = []
    tab.on("requestfailed", lambda request: failed.append(request.failure))
    breakpoints.hold_at(2500, 7500)
    with Wire(web) as wire:
        card = start_export(tab, f"http://127.0.0.1:{wire.port}/")
        if way == "offline":
            tab.context.set_offline(True)
        wire.cut()
        breakpoints.release(2500)
        breakpoints.wait_for(7500)
        # The browser has tried to reconnect in vain.
        refusal = "ERR_INTERNET_DISCONNECTED" if way == "offline" else "ERR_CONNECTION_REFUSED"
        wait_until(
            lambda: bar(card) and any(refusal in one for one in failed), what=lambda: str(failed)
        )
        assert bar(card) <= 25
        wire.mend()
        tab.context.set_offline(False)
        wait_until(lambda: bar(card) >= 70, seconds=60, what=card.inner_text)
        breakpoints.release(7500)
        ends_well(tab, card, slow_project)


NEWS = """
    from fastapi import APIRouter, Request, Response

    from vibetuner.frontend.templates import render
    from vibetuner.sse import broadcast, sse_endpoint

    router = APIRouter()


    @router.get("/")
    async def page(request: Request) -> Response:
        return render(request, "news.html")


    @router.post("/tell")
    async def tell(channel: str, text: str) -> str:
        return await broadcast(channel, "headline", f"<li>{text}</li>")


    @sse_endpoint("/events", router=router)
    async def events(channel: str) -> str:
        return channel
"""
NEWS_PAGE = """
    {{ htmx_scripts() }}
    <body hx-ext="sse">
    {% for channel in ["busy", "calm"] %}
    <section id="{{ channel }}" sse-connect="/events?channel={{ channel }}">
      <ul sse-swap="headline" hx-swap="beforeend"></ul>
      <ol sse-swap="reset" hx-swap="beforeend"></ol>
    </section>
    {% endfor %}
"""
COUNT_RESETS = """
    resets = 0;
    addEventListener("htmx:sseMessage", ({ detail }) => { resets += detail.type === "reset"; });
"""
NEWS_TUNE = """
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(routes=[router])
"""


def test_a_page_misses_nothing_after_a_proxy_has_answered_with_an_error(
    tab: playwright.Page, servers: Lease, tmp_path: Path
):
    """After a 502 for its stream, a page gets the events that it missed, in order and once.

    One that had not received any event gets a reset.
    """
    folder = write_project(
        tmp_path / "shop", {"routes.py": NEWS, "templates/news.html": NEWS_PAGE}, tune=NEWS_TUNE
    )
    environment = {
        "ENVIRONMENT": "test",
        "SECRET_KEY": "a key that the tests share, and nobody else",
        "REDIS_URL": servers.urls["redis"],
    }
    tab.add_init_script(COUNT_RESETS)

    @contextmanager
    def web(port: int) -> Iterator[None]:
        arguments = ("run", "prod", "frontend", "--port", str(port))
        log = tmp_path / f"{port}.log"
        with vibetuner(*arguments, folder=folder, log=log, environment=environment):
            wait_for_http(f"http://127.0.0.1:{port}/health")
            yield

    port, other = free_port(), free_port()

    def tell(text: str, *channels: str) -> None:
        for channel in channels:
            values = {"channel": channel, "text": text}
            httpx2.post(f"http://127.0.0.1:{other}/tell", params=values).raise_for_status()

    busy, calm = tab.locator("#busy li"), tab.locator("#calm li")
    with web(other), Wire(port) as wire:
        with web(port):
            with tab.expect_response("**/events?channel=busy"), tab.expect_response("**=calm"):
                tab.goto(f"http://127.0.0.1:{wire.port}/")
            tell("1", "busy")
            expect(busy).to_have_text(["1"], timeout=PATIENCE)
        for last in (3, 5):
            wait_until(lambda: given_up(tab) == {"busy", "calm"}, what=tab.content)
            tell(str(last - 1), "busy", "calm")
            tell(str(last), "busy", "calm")
            with web(port):
                every = [str(number + 1) for number in range(last)]
                expect(busy).to_have_text(every, timeout=PATIENCE)
                wait_until(lambda: tab.evaluate("resets") == 1, what=tab.content)
                assert given_up(tab) == set()
                if last == 5:
                    expect(calm).to_have_text(["4", "5"], timeout=PATIENCE)
    assert tab.evaluate("resets") == 1


def given_up(tab: playwright.Page) -> set[str]:
    """Return the sections whose address names where the next stream continues."""
    script = "[...document.querySelectorAll('[sse-connect*=last-event-id]')].map(s => s.id)"
    return set(tab.evaluate(script))


class Wire:
    """A TCP proxy between a browser and a web process, which a test can cut and mend.

    While the process doesn't listen, it answers with 502, as nginx does.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._ends: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=50)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        for end in (self._listener, *self._ends):
            if end is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._listener = None
        self._ends.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except ConnectionRefusedError:
                    near.recv(65536)
                    near.sendall(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n")
                    near.close()
                    continue
                self._ends |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._ends.discard(end)
