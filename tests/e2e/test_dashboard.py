"""An operator in a browser unlocks the dashboard, aborts a task and retries a dead letter."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.e2e.conftest import expect
from tests.processes import Site, free_port, run_vibetuner, vibetuner, wait_for_http
from tests.projects import write_project
from vibetuner.embedded import Lease
from vibetuner.testing import name_database

if TYPE_CHECKING:
    from playwright import sync_api as playwright

pytestmark = pytest.mark.slow

TOKEN = "a token that nobody guesses"
# axe-core reports violations only.
OPTIONS = "{resultTypes: ['violations']}"
# Reports a change to the page, and returns once the page has handled the answer.
REFRESH = """
    new Promise((done, failed) => {
        document.addEventListener("htmx:afterRequest", () => done(true), {once: true});
        setTimeout(() => failed("no request"), 5000);
        htmx.trigger("[sse-connect] [hx-get]", "sse:changed");
    })
"""
JOBS = """
    import asyncio

    from vibetuner.tasks.robust import robust_task
    from vibetuner.tasks.worker import get_worker

    worker = get_worker()


    @worker.task()
    async def wait_long(order: str, api_key: str) -> None:
        await asyncio.sleep(3600)


    @worker.task()
    async def add(a: int, b: int) -> int:
        return a + b


    @robust_task(max_retries=1)
    async def send_invoice(customer: str) -> None:
        raise ValueError(f"{customer} has no address <b>yet</b>")


    @worker.cron("0 3 * * *")
    async def tidy_up() -> None: ...
"""
TUNE = """
    from shop.jobs import add, send_invoice, tidy_up, wait_long
    from vibetuner import VibetunerApp

    app = VibetunerApp(tasks=[add, send_invoice, tidy_up, wait_long])
"""


@pytest.fixture(scope="module")
def environment(servers: Lease) -> dict[str, str]:
    name = f"test-{uuid4().hex[:8]}"
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": name,
        "MONGODB_URL": name_database(servers.urls["mongodb"], name),
        "SECRET_KEY": "a key that the tests share, and nobody else",
        "DEBUG_ACCESS_TOKEN": TOKEN,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("operated") / "shop"
    return write_project(root, {"jobs.py": JOBS}, tune=TUNE)


@pytest.fixture(scope="module")
def site(folder: Path, environment: dict[str, str]) -> Iterator[Site]:
    """Run web app and worker in production, with a finished task and a dead letter."""
    port = free_port()
    with ExitStack() as stack:
        for part, extra in (("frontend", port), ("worker", free_port())):
            log = folder.parent / f"{part}.log"
            arguments = ("run", "prod", part, "--port", str(extra))
            command = stack.enter_context(
                vibetuner(*arguments, folder=folder, log=log, environment=environment)
            )
            command.wait_for("ready", seconds=120)
        wait_for_http(f"http://localhost:{port}/health", seconds=60)
        for arguments in (("add", "--args", "[1, 2]"), ("send_invoice", "--args", '["ann"]')):
            enqueue(folder, environment, *arguments)
        yield Site(command, f"http://localhost:{port}")


def enqueue(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    done = run_vibetuner("tasks", "enqueue", *arguments, folder=folder, seconds=180, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


def test_an_operator_unlocks_watches_aborts_retries_and_locks(
    site: Site, page: playwright.Page, folder: Path, environment: dict[str, str]
):
    """The dashboard follows a task without a reload, from its start to the retry of a letter."""
    page.set_default_timeout(60_000)
    assert page.goto("/debug/tasks").status == 404
    page.goto("/_unlock-debug")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Unlock").click()
    assert page.url == f"{site.url}/debug/tasks"

    expect(page.locator("#count-running")).to_have_text("0")
    arguments = ("--args", '["A-17"]', "--kwargs", '{"api_key": "sk-live-1"}')
    task_id = enqueue(folder, environment, "wait_long", *arguments)
    expect(page.locator("#count-running")).to_have_text("1", timeout=60_000)

    page.get_by_role("link", name="running").click()
    page.get_by_role("link", name="wait_long").first.click()
    assert page.url.endswith(task_id)
    expect(page.locator(".badge").first).to_have_text("running")
    assert "sk-live-1" not in page.content()
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_text("The task has ended.")).to_be_visible()
    expect(page.locator(".badge").first).to_have_text("aborted")

    page.get_by_role("link", name="Dead letters").click()
    expect(page.get_by_text("1 open, by bug")).to_be_visible()
    page.locator("button[id^=retry-]").click()
    expect(page.get_by_text("Enqueued again.")).to_be_visible()
    expect(page.locator(".badge").first).to_have_text("failed", timeout=60_000)

    page.goto("/debug/tasks")
    page.get_by_role("button", name="Lock").click()
    assert page.goto("/debug/tasks").status == 404


def test_a_page_is_fetched_again_for_each_change(site: Site, page: playwright.Page):
    """Two changes that arrive together are both shown; the second one waits for its turn."""
    page.goto(f"/_unlock-debug?token={TOKEN}")
    page.goto("/debug/tasks")
    for _ in range(2):
        assert page.evaluate(REFRESH)


def test_a_page_can_be_used_while_it_changes(site: Site, page: playwright.Page):
    """A link keeps the focus when its page is fetched again, and can be clicked meanwhile."""
    page.goto(f"/_unlock-debug?token={TOKEN}")
    page.goto("/debug/tasks/list")
    link = page.locator("tbody th a").first
    link.focus()
    assert page.evaluate(REFRESH)
    expect(link).to_be_focused()

    link.hover()
    page.mouse.down()
    assert page.evaluate(REFRESH)
    with page.expect_request(lambda one: "hx-request" in one.headers):  # what was put off
        page.mouse.up()
    page.wait_for_url("**/debug/tasks/task/*")


def test_a_press_that_is_dragged_away_does_nothing(site: Site, page: playwright.Page):
    """A press on a link that ends elsewhere follows no link, and the page shows later changes."""
    page.goto(f"/_unlock-debug?token={TOKEN}")
    page.goto("/debug/tasks/list")
    page.locator("tbody th a").first.hover()
    page.mouse.down()
    assert page.evaluate(REFRESH)

    with page.expect_request(lambda one: "hx-request" in one.headers):  # what was put off
        page.mouse.move(5, 300, steps=5)
        page.mouse.up()

    assert page.evaluate(REFRESH)
    assert page.url.endswith("/debug/tasks/list")


def test_each_page_is_accessible(site: Site, page: playwright.Page, axe: str):
    """axe-core finds no serious fault on any page, and no page is wider than its window."""
    page.set_default_timeout(60_000)
    page.goto(f"/_unlock-debug?token={TOKEN}")
    pages = ["", "/list", "/cron", "/dead", "/dead/confirm?verb=retry", "/task/nobody"]
    page.goto("/debug/tasks/list")
    links = page.locator("tbody th a")
    pages += [
        str(links.nth(n).get_attribute("href")).removeprefix("/debug/tasks")
        for n in range(links.count())
    ][:3]
    for path in pages:
        page.goto(f"/debug/tasks{path}")
        # The page's Content-Security-Policy does not apply to code from the debugger.
        page.evaluate(f"(() => {{ {axe} }})()")
        for width, scheme in ((390, "light"), (1280, "dark")):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 850})
            shown = page.evaluate("document.documentElement.scrollWidth")
            assert shown <= width, path
            if shots := os.environ.get("SCREENSHOTS"):
                name = path.strip("/").replace("/", "-")[:16] or "overview"
                file = Path(shots) / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=file, full_page=True)
            found = page.evaluate(f"async () => (await axe.run({OPTIONS})).violations")
            serious = [v for v in found if v["impact"] in {"serious", "critical"}]
            nodes = [(v["id"], v["nodes"][0]["html"]) for v in serious]
            assert not serious, (path, width, scheme, nodes)


def test_the_charts_of_a_phone_are_equally_wide(site: Site, page: playwright.Page):
    """The charts of the dashboard are equally wide on a phone.

    A legend beside a caption once took a third of the first chart.
    """
    page.goto(f"/_unlock-debug?token={TOKEN}")
    page.set_viewport_size({"width": 390, "height": 850})
    page.goto("/debug/tasks")
    widths = page.evaluate("[...document.querySelectorAll('.plot')].map(one => one.clientWidth)")

    assert len(widths) == 6
    assert set(widths) == {max(widths)}
    assert max(widths) > 300


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return axe-core's script, from the file that AXE names or else from npm."""
    if given := os.environ.get("AXE"):
        return Path(given).read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: set AXE to the path of axe.min.js")
    command = ["npm", "pack", "--silent", "axe-core@4"]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if packed.returncode:
        pytest.skip(f"npm could not fetch axe-core: {packed.stderr[-200:]}")
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()
