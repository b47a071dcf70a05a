"""Small faults that users meet in their first half hour."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.processes import run_vibetuner
from tests.projects import write_project
from tests.runtime.conftest import Running
from tests.runtime.frontend.debug.conftest import browsing
from vibetuner.cli.checks.outside import check_version
from vibetuner.config import Settings, using_settings
from vibetuner.project import ProjectInfo
from vibetuner.tasks.dead_letters import Cause, get
from vibetuner.tasks.robust import robust_task
from vibetuner.tasks.worker import TaskWorker, using_worker


async def test_a_dead_letter_of_a_timeout_shows_the_line_that_hung(
    stand_in: Callable[..., Any], settings: Settings, running: Running
):
    """The dead letter of a task that timed out has a traceback down to the line that hung."""
    stand_in()
    own = settings.model_copy(update={"mongodb_url": None})
    with using_settings(own), using_worker(TaskWorker(own)) as worker:

        @robust_task(name="hangs", max_retries=1, timeout=timedelta(milliseconds=50))
        async def hangs() -> None:
            await asyncio.Event().wait()  # nobody sets it

        async with running(worker):
            task = await hangs.enqueue()
            await task.result(timeout=30)
            letter = await get(task.id)

    assert letter.cause is Cause.TIMEOUT
    assert "await asyncio.Event().wait()  # nobody sets it" in letter.traceback


async def test_the_dashboard_counts_one_task_as_one_and_explains_its_charts(
    stand_in: Callable[..., Any], settings: Settings
):
    """The dashboard uses the singular for one task.

    Each chart has a scale, a legend and a description for screen readers.
    """
    stand_in()
    worker = TaskWorker(settings)

    @worker.task(name="echo")
    async def echo() -> None: ...

    with using_worker(worker):
        async with browsing(settings) as client:
            await echo.enqueue()
            page = (await client.get("/debug/tasks")).text

    assert "No worker is alive, and 1 task waits." in page
    charts = page.count("<figure>")
    assert charts == 6
    assert page.count('class="legend"') == page.count('class="axis"') == charts
    assert page.count('role="img" aria-label="') == charts


def test_the_doctor_asks_git_as_the_user_has_configured_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The doctor finds the newest template through the mirror of the user's git configuration."""
    template, config = tmp_path / "mirror", tmp_path / "gitconfig"
    config.write_text(
        "[user]\nname = Ann\nemail = ann@example.com\n"
        f'[url "{template.as_uri()}"]\ninsteadOf = https://templates.invalid/org/template.git\n'
        '[protocol "file"]\nallow = always\n',
        "utf-8",
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    for command in (
        ("init", "--quiet", str(template)),
        ("-C", str(template), "commit", "--quiet", "--allow-empty", "--message", "Start"),
        ("-C", str(template), "tag", "v1.2.3"),
    ):
        subprocess.run(["git", *command], env=dict(os.environ), check=True)
    answers = "_commit: v1.2.0\n_src_path: git+https://templates.invalid/org/template.git\n"
    (tmp_path / ".copier-answers.yml").write_text(answers, "utf-8")

    [found] = check_version(ProjectInfo("Shop", "shop", "shop", "0", "", tmp_path))

    assert (found.text, found.level) == ("version v1.2.0; there is v1.2.3", "note")


@pytest.mark.process
@pytest.mark.parametrize(
    "command", ["db upgrade", "tasks list", "dead-letters list", "tasks watch 1a2b3c4d", "doctor"]
)
def test_a_command_before_the_first_start_makes_the_env_file(tmp_path: Path, command: str):
    """A command before the first start makes .env from .env.example, with a new SECRET_KEY."""
    folder = write_project(tmp_path / "shop")
    (folder / ".env.example").write_text("SECRET_KEY=\nREDIS_URL=redis://127.0.0.1:1\n", "utf-8")
    done = run_vibetuner(*command.split(), folder=folder)

    assert "made .env from .env.example, with a fresh SECRET_KEY" in done.stderr
    assert re.search(r"(?m)^SECRET_KEY=\S{64}$", (folder / ".env").read_text("utf-8"))
    assert "not configured" not in (done.stdout + done.stderr).replace("SQL database not", "")


@pytest.mark.process
@pytest.mark.parametrize("variable", ["ENVIRONMENT=production", "REDIS_URL=redis://127.0.0.1:1"])
def test_no_env_file_is_made_if_the_environment_has_the_settings(tmp_path: Path, variable: str):
    """Commands make no .env if the environment has the settings, as on servers and in CI."""
    folder = write_project(tmp_path / "shop")
    (folder / ".env.example").write_text("SECRET_KEY=\n", "utf-8")
    name, _, value = variable.partition("=")
    run_vibetuner("tasks", "list", folder=folder, **{name: value})
    run_vibetuner("db", "upgrade", "--help", folder=folder)

    assert not (folder / ".env").exists()
