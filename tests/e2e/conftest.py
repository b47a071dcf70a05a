"""A newly generated project, installed and running, and a Chromium that shows its pages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.environments import Mold, render
from tests.processes import (
    Site,
    clean_environment,
    free_port,
    interrupt,
    start_group,
    wait_for_http,
)
from tests.template import conftest as template

if TYPE_CHECKING:
    from playwright import sync_api as playwright

# The template, and the environment that its projects install.
mold, plain = template.mold, template.plain

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The parts of Chromium's own window that are pages, each with a process in each window, and a spare
# process for the next page: a third of a test's processor time, which nobody sees.
OWN_PAGES = (
    *("InitialWebUI", "PreloadTopChromeWebUI", "SpareRendererForSitePerProcess", "WebUIToolbar"),
    *("WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup", "WebUIOmniboxPopup", "WebUIReloadButton"),
)
# Of the features that playwright disables, those that matter here; our list replaces its own.
PLAYWRIGHTS = (
    *("AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades"),
    *("MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding"),
    *("PreconnectToSearch", "ThirdPartyStoragePartitioning"),
)
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join((*OWN_PAGES, *PLAYWRIGHTS))}",
]


def expect(found: playwright.Page | playwright.Locator) -> Any:
    """Return playwright's assertions about a part of a page.

    Playwright is imported only by the process that runs these tests, as that takes half a second.
    """
    return import_module("playwright.sync_api").expect(found)


@pytest.fixture(scope="session")
def project(plain: Path, mold: Mold, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render the template with default answers, install it, and add the sign-in."""
    folder = render(plain, tmp_path_factory.mktemp("e2e") / "my-project")
    mold.lend(folder, lock=True)
    for command in ("uv add --quiet argon2-cffi", "uv run --quiet vibetuner new auth"):
        subprocess.run(
            command.split(), cwd=folder, env=clean_environment(), check=True, timeout=300
        )
    return folder


@pytest.fixture(scope="session")
def site(project: Path) -> Iterator[Site]:
    """Run `just local-all-with-worker` in the project, on a free port."""
    port = free_port()
    command = start_group(
        *("uv", "run", "--quiet", "just", "local-all-with-worker", "--port", str(port)),
        folder=project,
        log=project.parent / "log",
        environment=clean_environment(),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        command.wait_for("worker ready", seconds=60)
        wait_for_http(url, seconds=60)
        yield Site(command, url)
    finally:
        interrupt(command)


@pytest.fixture(scope="package")
def browser() -> Iterator[playwright.Browser]:
    """Start headless Chromium: CHROMIUM, one on the PATH, or the one that playwright fetched.

    It is closed with its package: playwright keeps an event loop running, which asyncio's own tests
    would find.
    """
    api = pytest.importorskip("playwright.sync_api", reason="uv run --group e2e pytest")
    executable = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as engine:
        if executable is None and not Path(engine.chromium.executable_path).exists():
            reason = (
                "no Chromium: install one, or run: uv run --group e2e playwright install chromium"
            )
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        browser = engine.chromium.launch(executable_path=executable, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: playwright.Browser, site: Site) -> Iterator[playwright.Page]:
    """Open a tab; fail if its page asks another host, or logs an error to the console."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    foreign, complaints = [], []
    page.on("request", lambda r: foreign.append(r.url) if not r.url.startswith(site.url) else None)
    page.on("console", lambda m: complaints.append(m.text) if is_complaint(m) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert foreign == []
    assert complaints == []


def is_complaint(message: playwright.ConsoleMessage) -> bool:
    """Return whether a message is an error of the page, other than a response above 399."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")
