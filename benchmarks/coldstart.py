"""How long is it from `copier copy` to the first finished task, with a warm package cache?

And how long to a signed-in page that starts a task of one's own and shows its end: sign-in and the
task are generated, and the page is used over HTTP, as a browser does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from statistics import median
from typing import TypeVar

import httpx2
from copying import COPIER
from lab import Figure, clean_env, sources, workplace
from worker import free_port

T = TypeVar("T")

ROUNDS = 3
NOTE = """\
The existing product is not measured: its package on PyPI contains no template, its command copies \
one from GitHub, and its worker needs a Redis that Docker runs. This machine had neither a network \
nor a container engine."""
# A worker with embedded servers, and a client that enqueues one task and waits for its end.
CLIENT = """
import asyncio
from vibetuner.tasks.worker import open_queue
from my_project.tasks.greet import greet

async def main():
    async with open_queue():
        task = await greet.enqueue("42")
        result = await task.result(timeout=60)
        assert result.success, result.exception

asyncio.run(main())
"""


def measure(*, beside: bool) -> list[Figure]:
    """Copy, install, generate a task, run a worker, enqueue, result."""
    del beside  # see NOTE
    runs = [one_start(number) for number in range(ROUNDS + 1)][1:]
    copied, installed, generated, finished, signed_in = (
        median(column) for column in zip(*runs, strict=True)
    )
    return [
        Figure(what="`copier copy` to the first finished task", ours=finished, unit="ms"),
        Figure(what="of that, until it is copied", ours=copied, unit="ms"),
        Figure(what="until `uv sync` has installed", ours=installed, unit="ms"),
        Figure(what="until `vibetuner new task` has written one", ours=generated, unit="ms"),
        Figure(
            what="`copier copy` to a signed-in page with a task of one's own", ours=signed_in,
            unit="ms",
        ),
    ]  # fmt: skip


def one_start(number: int) -> tuple[float, float, float, float, float]:
    """Return milliseconds since the beginning at each step; the first run warms the cache.

    The time that the first task took is no part of the last figure.
    """
    project = workplace() / f"cold-{number}" / "my-project"
    began = time.perf_counter()
    times: list[float] = []

    def step(command: Sequence[str | Path], cwd: Path = project) -> None:
        subprocess.run(command, cwd=cwd, env=clean_env(), check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - began) * 1000)

    binaries = project / ".venv" / "bin"
    vibetuner = binaries / "vibetuner"
    step([COPIER, "copy", "--quiet", "--defaults", sources(), project], workplace())
    step(["uv", "sync", "--quiet"])
    step([vibetuner, "new", "task", "greet"])
    with development(project, "worker"):
        step([binaries / "python", "-c", CLIENT])
    began += (times[3] - times[2]) / 1000
    step(["uv", "add", "--quiet", "argon2-cffi"])
    step([vibetuner, "new", "auth"])
    step([vibetuner, "new", "task", "count-up", "--progress"])
    with development(project, "all") as url:
        sign_in_and_watch(url, project)
    signed_in = (time.perf_counter() - began) * 1000
    shutil.rmtree(project.parent, ignore_errors=True)
    return times[0], times[1], times[2], times[3], signed_in


@contextmanager
def development(project: Path, part: str) -> Iterator[str]:
    """Run `vibetuner run dev`; yield the address of its page, which may not answer yet."""
    port = free_port()
    process = subprocess.Popen(
        [project / ".venv/bin/vibetuner", "run", "dev", part, "--port", str(port)],
        cwd=project, env=clean_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def sign_in_and_watch(url: str, project: Path) -> None:
    """Sign up by a mailed link, look at the account, start the task and follow it to its end."""
    with httpx2.Client(base_url=url, follow_redirects=True, timeout=60) as client:
        wait_until(lambda: answers(client))
        client.post("/sign-in/link", data={"email": "ann@example.com"}).raise_for_status()
        token = wait_until(lambda: find_token(project / ".vibetuner" / "outbox"))
        client.post("/sign-in/confirm", data={"token": token}).raise_for_status()
        assert "ann@example.com" in client.get("/account").raise_for_status().text
        started = client.post("/count-up").raise_for_status().text
        [events] = re.findall(r'sse-connect="([^"]+)"', started)
        assert "event: complete" in client.get(events).raise_for_status().text


def answers(client: httpx2.Client) -> bool:
    """Return whether the web app is ready."""
    try:
        return client.get("/health/ready").status_code == 200
    except httpx2.TransportError:
        return False


def find_token(outbox: Path) -> str:
    """Return the token of the mailed link; an empty text before the mail is there."""
    for path in outbox.glob("*.eml"):
        mail = message_from_bytes(path.read_bytes(), policy=policy.default)
        body = mail.get_body(("html",))
        if found := re.search(
            r"/sign-in/link\?token=([^\"&]+)", body.get_content() if body else ""
        ):
            return found[1]
    return ""


def wait_until(look: Callable[[], T], seconds: float = 60) -> T:
    """Return what ``look`` returns once that is true; raise TimeoutError if it never is."""
    deadline = time.perf_counter() + seconds
    while not (found := look()):
        if time.perf_counter() > deadline:
            raise TimeoutError(look)
        time.sleep(0.05)
    return found
