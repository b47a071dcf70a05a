"""The function replay_fuzz: a task is cut off at each await and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vibetuner.context import Context
from vibetuner.tasks import WorkerDepends
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import get_worker
from vibetuner.testing import replay_fuzz

pytestmark = pytest.mark.usefixtures("in_a_project")

tasks = get_worker()
sent: list[str] = []
paid: dict[str, int] = {}


async def post(item: str) -> None:
    await asyncio.sleep(0)
    sent.append(item)
    await asyncio.sleep(0)


@tasks.task()
async def greet(name: str) -> None:
    await post(f"hello {name}")


@robust_task()
async def charge_card(name: str, *, cents: int, context: Context = WorkerDepends()) -> None:
    await asyncio.sleep(0)
    paid[f"{name} {charge_card.context.task_id} {context.project_slug}"] = cents
    await asyncio.sleep(0)


@tasks.task()
async def begin_once(folder: Path) -> None:
    if (folder / "begun").exists():
        return
    (folder / "begun").touch()
    await asyncio.sleep(0)
    (folder / "done").touch()


@tasks.task()
async def tidy(folder: Path) -> None:
    part = folder / "file.part"
    try:
        part.write_text("a")
        await asyncio.sleep(0)
        part.write_text("ab")
        part.replace(folder / "file")
    finally:
        await asyncio.sleep(0)
        part.unlink(missing_ok=True)


@tasks.task()
async def makes_a_folder(folder: Path) -> None:
    (folder / "new").mkdir()
    await asyncio.sleep(0)


@tasks.task()
async def broken() -> None:
    raise ValueError("no address")


@tasks.task()
async def swallows() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


@tasks.task()
def synchronous() -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture(autouse=True)
def news() -> Iterator[None]:
    yield
    sent.clear()
    paid.clear()


async def test_a_message_that_goes_out_twice_is_found():
    """A side effect that happens twice is found, with the await, its line and the difference."""
    with pytest.raises(AssertionError) as raised:
        await replay_fuzz(greet, "Ann", observe=lambda: sent, reset=sent.clear)

    first, once, seen = str(raised.value).splitlines()
    assert first.startswith("greet leaves a difference when it is cut off at await 2 of 2, ")
    assert first.endswith(" in post: await asyncio.sleep(0), and tried anew.")
    assert "test_replay.py:" in first
    assert once == "  run once: ['hello Ann']"
    assert seen == "  this way: ['hello Ann', 'hello Ann']"


async def test_a_task_that_knows_its_id_passes():
    """Both tries have the same task id and the worker's context."""
    await replay_fuzz(
        charge_card, "Ann", cents=5, observe=lambda: list(paid.values()), reset=paid.clear
    )
    assert list(paid.values()) == [5]


async def test_a_first_try_that_keeps_the_second_from_working_is_found(folder: Path):
    """A first try that keeps the second from working is found with a ``reset``.

    Without it, the work is done already, and the fault can't be seen.
    """

    def begin() -> None:
        for file in folder.iterdir():
            file.unlink()

    def files() -> list[str]:
        return names_in(folder)

    await replay_fuzz(begin_once, folder, observe=files)
    with pytest.raises(
        AssertionError, match=r"at await 1 of 1, .*\n.*'begun', 'done'.*\n.*\['begun'\]"
    ):
        await replay_fuzz(begin_once, folder, observe=files, reset=begin)


async def test_cleaning_up_runs_to_its_end(folder: Path):
    """The cleanup of a task runs to its end, with its awaits, as when a worker stops."""

    async def files() -> list[str]:
        return names_in(folder)

    await replay_fuzz(tidy, folder, observe=files)
    assert names_in(folder) == ["file"]


async def test_a_second_try_that_fails_is_found(folder: Path):
    """A second try that fails is found, with its error."""
    with pytest.raises(AssertionError, match="makes_a_folder fails .* tried anew: FileExistsError"):
        await replay_fuzz(
            makes_a_folder,
            folder,
            observe=lambda: None,
            reset=lambda: (folder / "new").rmdir() if (folder / "new").exists() else None,
        )


async def test_a_task_that_fails_by_itself_fails_as_it_does():
    """A task that fails without a cut raises its own error."""
    with pytest.raises(ValueError, match="no address"):
        await replay_fuzz(broken, observe=lambda: None)


async def test_a_task_may_survive_its_cut():
    """A task that survives its cut counts as finished.

    The outcome is observed after the first run, after its only cut, and after two runs.
    """
    looks: list[str] = []
    await replay_fuzz(swallows, observe=lambda: looks.append("once more"))
    assert len(looks) == 3


async def test_only_asynchronous_tasks_have_awaits():
    """A task that is not async is refused, and so is a function that is no task."""
    with pytest.raises(TypeError, match="synchronous is not async, so that there is no await"):
        await replay_fuzz(synchronous, observe=lambda: None)
    with pytest.raises(TypeError, match="replay_fuzz takes a task, not <function"):
        await replay_fuzz(post, "x", observe=lambda: None)


async def test_an_argument_with_which_nothing_would_be_tested_is_refused():
    """Values in place of functions, and no cuts at all, are refused."""
    with pytest.raises(TypeError, match=r"observe takes a function, such as .*, not \[\]"):
        await replay_fuzz(swallows, observe=[])
    with pytest.raises(TypeError, match=r"reset takes a function, such as .*, not \['a'\]"):
        await replay_fuzz(swallows, observe=list, reset=["a"])
    with pytest.raises(ValueError, match="cuts takes a whole number, 1 or more, not 0"):
        await replay_fuzz(swallows, observe=list, cuts=0)


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())
