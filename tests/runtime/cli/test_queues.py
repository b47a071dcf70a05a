"""``--queues`` of a worker, and ``worker-health --queue``: real processes in a project."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import Command, free_port, run_vibetuner, vibetuner
from tests.projects import write_project
from tests.waiting import wait_until
from vibetuner import VibetunerApp
from vibetuner.config import Settings, using_settings
from vibetuner.tasks.worker import TaskWorker

NAMES = ["critical", "default", "bulk"]

JOBS = """
    from pathlib import Path

    from vibetuner.tasks.robust import robust_task


    @robust_task()
    async def write(journal: str, text: str) -> None:
        with Path(journal).open("a") as file:
            print(text, file=file)
"""

TUNE = """
    from shop.jobs import write
    from vibetuner import VibetunerApp

    app = VibetunerApp(queues=["critical", "default", "bulk"], tasks=[write])
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a project with three queues."""
    return write_project(tmp_path / "shop", {"jobs.py": JOBS}, tune=TUNE)


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables of a process in production."""
    return environment | {"ENVIRONMENT": "production"}


@pytest.mark.slow
@pytest.mark.parametrize("given", ["critical:6,bulk:1", "critical, bulk"])
def test_a_worker_reads_the_queues_that_are_named(
    root: Path, environment: dict[str, str], tmp_path: Path, given: str
):
    """A worker with --queues runs the tasks of those queues only, as `worker-health` reports."""
    journal = tmp_path / "journal"
    journal.touch()
    asyncio.run(enqueue_one_each(environment, journal))
    with worker(root, environment, tmp_path / "log", "--queues", given) as command:
        shown = given.replace(",", ", ").replace("  ", " ")
        assert f"worker reads these queues only: {shown}" in command.output
        wait_until(lambda: len(journal.read_text().split()) == 2)

        read = run_vibetuner("worker-health", "--queue", "bulk", folder=root, **environment)
        assert (read.returncode, read.stdout.partition(":")[0]) == (0, "healthy")
        unread = run_vibetuner("worker-health", "--queue", "default", folder=root, **environment)
        assert unread.returncode == 1
        assert f"{environment['REDIS_KEY_PREFIX']} that reads default. Start one" in unread.stderr
    assert sorted(journal.read_text().split()) == ["bulk", "critical"]


@pytest.mark.slow
def test_the_doctor_names_a_queue_that_no_worker_has_ever_read(
    root: Path, environment: dict[str, str], tmp_path: Path
):
    """The doctor names a new queue in which tasks wait, while the workers have the older code."""
    journal = tmp_path / "journal"
    journal.touch()
    tune = root / "src" / "shop" / "tune.py"
    new = tune.read_text()
    tune.write_text(new.replace('"critical", "default", "bulk"', '"critical", "default"'))
    with worker(root, environment, tmp_path / "log"):
        tune.write_text(new)
        asyncio.run(enqueue_one_each(environment, journal))
        wait_until(lambda: len(journal.read_text().split()) == 2)
        done = run_vibetuner("doctor", "--json", folder=root, **environment)
    findings = json.loads(done.stdout)["findings"]
    assert [one["text"] for one in findings if one["area"] == "queues"] == [
        "no live worker reads the queue bulk, which holds 1 task"
    ]


@contextmanager
def worker(root: Path, environment: dict[str, str], log: Path, *more: str) -> Iterator[Command]:
    """Run a worker beside the block, from when it is ready."""
    with vibetuner(
        *("run", "prod", "worker", "--port", str(free_port()), *more),
        folder=root,
        log=log,
        environment=environment,
    ) as command:
        command.wait_for("worker ready", seconds=60)
        yield command


async def enqueue_one_each(environment: dict[str, str], journal: Path) -> None:
    """Enqueue a task in each queue, as a process without the tasks' code would."""
    settings = Settings(**{name.lower(): value for name, value in environment.items()})
    with using_settings(settings):
        async with TaskWorker(settings, lambda: VibetunerApp(queues=NAMES)) as queue:
            for name in NAMES:
                await queue.enqueue_unsafe("write", str(journal), name).start(priority=name)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("critical:x", "--queues takes whole weights from 1 to 1000, not 'x' in 'critical:x'"),
        ("critical:6,bulk", "--queues takes a weight for each queue or for none, not"),
        ("critical,,bulk", "--queues takes names with commas between, each once, not"),
        ("bluk", "--queues names 'bluk', which tune.py does not declare. Take one of critical, "),
    ],
)
def test_queues_that_are_none_are_one_line(
    root: Path, environment: dict[str, str], given: str, error: str
):
    """Wrong values of --queues are refused in one line, and no worker starts."""
    done = run_vibetuner(
        *("run", "prod", "worker", "--port", str(free_port()), "--queues", given),
        folder=root,
        **environment,
    )
    assert done.returncode == 1
    assert f"error: {error}" in done.stderr
    assert "worker ready" not in done.stderr


def test_a_web_process_has_no_queues(root: Path, environment: dict[str, str]):
    """A web process refuses --queues, as it runs no worker."""
    done = run_vibetuner(
        *("run", "prod", "frontend", "--port", str(free_port()), "--queues", "bulk"),
        folder=root,
        **environment,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "error: --queues is for a worker, and frontend runs none. Leave it out\n",
    )
