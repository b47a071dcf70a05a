"""Takes pictures of the generated pages: the README's, and those for a person to look at."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "build" / "screenshot"
README_PICTURE = ROOT / "docs" / "assets" / "exports.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"desktop": (1280, 620), "phone": (390, 844)}


def main() -> None:
    """Render, run, act, and take pictures; all but the README's go to build/screenshots."""
    port = free_port()
    subprocess.run([sys.executable, "scripts/render.py", str(PROJECT)], cwd=ROOT, check=True)
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    subprocess.run(["uv", "sync", "--quiet"], cwd=PROJECT, env=environment, check=True)
    command = ["uv", "run", "--no-sync", "vibetuner", "run", "dev", "all", "--port", str(port)]
    with subprocess.Popen(command, cwd=PROJECT, env=environment) as process:
        try:
            take_pictures(f"http://127.0.0.1:{port}")
        finally:
            process.send_signal(signal.SIGINT)


def take_pictures(url: str) -> None:
    """Take pictures of both pages, in both sizes, light and dark."""
    wait_for(url)
    with sync_playwright() as engine:
        executable = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = engine.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        prepare(browser, url)
        folder = ROOT / "build" / "screenshots"
        for size in SIZES:
            for scheme in ("light", "dark"):
                page = open_page(browser, url, size, scheme)
                for name, path in (("exports", "/"), ("signup", "/signup")):
                    page.goto(path)
                    page.wait_for_timeout(1500)
                    page.screenshot(path=folder / f"{name}-{size}-{scheme}.png")
                page.context.close()
        README_PICTURE.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "exports-desktop-light.png", README_PICTURE)
        browser.close()


def prepare(browser: Browser, url: str) -> None:
    """Make a finished and a cancelled export, and start another one for the pictures."""
    page = open_page(browser, url, "desktop", "light")
    page.goto("/")
    start = page.get_by_role("button", name="Start an export")
    start.click()
    page.get_by_text("Done", exact=True).first.wait_for(timeout=60_000)
    start.click()
    page.wait_for_timeout(1200)
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_text("Cancelled", exact=True).first.wait_for()
    start.click()
    page.wait_for_timeout(500)
    page.context.close()


def open_page(browser: Browser, url: str, size: str, scheme: str) -> Page:
    """Open a tab of a size, in a colour scheme."""
    width, height = SIZES[size]
    return browser.new_context(
        base_url=url,
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        device_scale_factor=1,
    ).new_page()


def wait_for(url: str, seconds: float = 60) -> None:
    """Wait until the page answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    sys.exit(f"error: {url} did not answer within {seconds:.0f} s")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
