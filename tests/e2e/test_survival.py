"""The progress bar of an export survives interruptions between browser and task."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.processes import (
    Command,
    children_of,
    clean_environment,
    free_port,
    wait_for_http,
    wait_until,
)

playwright = pytest.importorskip("playwright.sync_api", reason="uv run --group e2e pytest")
expect = playwright.expect

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
    log = folder / f"{arguments[0]}.log"
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [folder / ".venv/bin/python", "-m", "vibetuner", "run", "dev", *arguments],
            cwd=folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield Command(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(60)


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


class Wire:
    """A TCP proxy between a browser and a web process, which a test can cut and mend."""

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
                far = socket.create_connection(("127.0.0.1", self._target))
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
