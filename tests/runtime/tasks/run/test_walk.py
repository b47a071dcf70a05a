"""The walk of a failing robust task, from `enqueue()` to the step that stores its letter."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import vibetuner
from tests.runtime.conftest import Running
from tests.waiting import eventually
from vibetuner.tasks.journal import bucket
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker

PACKAGE = Path(vibetuner.__file__).parent
PAGE = Path(__file__).parents[4] / "docs/architecture.md"
MOST_STOPS = 60
# This step sends the dead letter to the server.
LAST = "tasks.run.finisher.Finisher._step"
ROW = re.compile(r"^\| [^|]+ \| `([\w.]+)` \| (.+) \|$", re.MULTILINE)


async def test_the_walk_is_as_short_as_the_page_says(
    worker: TaskWorker, running: Running, caplog: pytest.LogCaptureFixture
):
    """A failing task calls exactly the functions in the page's table, which are at most sixty."""
    with using_worker(worker):

        @robust_task(max_retries=1, name="fails")
        async def fails() -> None:
            raise ValueError("no")

    async with running(worker):
        await (await fails.enqueue()).result(timeout=30)  # fills caches
        await eventually(lambda: "fails failed" in caplog.text)  # logged after the result
        with stops() as idle:
            await asyncio.sleep(1.5)
        bucket.cache_clear()  # a cached value is no stop
        redis, places = worker.redis, worker.client.keys.letter_places
        with stops() as made:
            task = await fails.enqueue()
            await eventually(lambda: worker.counters["failed"] == 2)
            await eventually(lambda: redis.hexists(places, task.id))

    made_until = list(made)[: list(made).index(LAST) + 1]
    walk = {stop for stop in made_until if stop not in idle and not stop.startswith("redis.")}
    assert walk == documented()
    assert len(walk) <= MOST_STOPS


def documented() -> set[str]:
    """Return the stops of the page's table."""
    section = PAGE.read_text(encoding="utf-8").partition("## The walk of a failing task")[2]
    return {
        f"{module}.{name}"
        for module, names in ROW.findall(section.partition("\n## ")[0])
        for name in re.findall(r"`([\w.]+)`", names)
    }


@contextmanager
def stops() -> Iterator[dict[str, None]]:
    """Collect our functions that are called inside the block, in their order."""
    found: dict[str, None] = {}

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and (name := name_of(frame.f_code)):
            found.setdefault(name)

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def name_of(code: CodeType) -> str | None:
    """Return the module and name of a function of ours, and None for any other code."""
    path = Path(code.co_filename)
    if not path.is_relative_to(PACKAGE) or "<" in code.co_name or code.co_name.startswith("__"):
        return None
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    return f"{module}.{code.co_qualname.removesuffix('.<locals>')}".replace(".<locals>", "")
