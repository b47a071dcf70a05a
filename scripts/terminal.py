"""Draws the README's terminal: a fresh project that is run, used and stopped, as it was printed."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "build" / "terminal"
PICTURE = ROOT / "docs" / "assets" / "terminal.svg"
COMMAND = "uv run just local-all-with-worker"
URL = "http://127.0.0.1:8000"
WIDTH = 100
# Left out: each request's line, the mail's text, and what only says that another worker runs on
# the machine where the picture was taken.
NOISE = re.compile(r' - "[A-Z]+ /|no monitor:')
KEPT = re.compile(r"\d\d:\d\d:\d\d|made \.env")


def main() -> None:
    """Render, run, act, stop, and draw what was printed."""
    subprocess.run([sys.executable, "scripts/render.py", str(PROJECT)], cwd=ROOT, check=True)
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | {"FORCE_COLOR": "1"}
    subprocess.run(["uv", "sync", "--quiet"], cwd=PROJECT, env=environment, check=True)
    log = PROJECT.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            COMMAND.split(), cwd=PROJECT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for("worker ready", log)
        wait_for("web app ready", log)
        ask("/signup", b"email=ann@example.com&name=Ann")
        ask("/exports", b"")
        wait_for("export_orders done", log)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    draw(log.read_text(encoding="utf-8"))


def ask(path: str, form: bytes) -> None:
    """Send a form as the page does."""
    with urlopen(Request(f"{URL}{path}", form, {"Origin": URL}), timeout=30):
        pass


def wait_for(text: str, log: Path, seconds: float = 120) -> None:
    """Wait until the terminal shows ``text``."""
    deadline = time.monotonic() + seconds
    while text not in log.read_text(encoding="utf-8"):
        if time.monotonic() > deadline:
            sys.exit(f"error: no {text!r} in {log}")
        time.sleep(0.1)


def draw(printed: str) -> None:
    """Write the picture: the command as typed, and the lines that show what happened."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "green"), (COMMAND, "bold")))
    for line in printed.splitlines():
        if KEPT.search(line) and not NOISE.search(line):
            console.print(Text.from_ansi(shorten(line)), no_wrap=True)
    svg = console.export_svg(title="my-project", unique_id="terminal")
    # The fonts would be fetched from elsewhere; the reader's own monospaced font will do.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
    print(f"drawn:  {PICTURE.relative_to(ROOT)}")


def shorten(line: str) -> str:
    """Return a line without the paths of the machine where the picture was taken."""
    return re.sub(r"(outbox/)\S+", r"\1…", line.replace(str(PROJECT) + os.sep, ""))


if __name__ == "__main__":
    try:
        main()
    except (URLError, OSError) as error:
        sys.exit(f"error: {error}")
