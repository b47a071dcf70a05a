"""Tasks, as the commands show them on a terminal."""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runtime.cli.conftest import on_terminal
from vibetuner.cli.console import note_start
from vibetuner.cli.task_queue import print_detail, print_page, print_reasons, print_stats
from vibetuner.cli.watch import _as_bar
from vibetuner.config import Settings, using_settings
from vibetuner.project import using_data_dir
from vibetuner.tasks.inspect.model import (
    Counts,
    Page,
    QueueView,
    Reason,
    Row,
    State,
    TaskDetail,
    WorkerView,
)
from vibetuner.tasks.inspect.stats import Outbox, Span, Stats
from vibetuner.tasks.journal import Beat
from vibetuner.tasks.progress import ProgressState, ProgressStatus


def row(state: State) -> Row:
    return Row(task_id="a1", name="charge", state=state)


def test_a_start_of_the_embedded_services_is_announced(tmp_path: Path):
    """A terminal shows that servers are started, unless none is embedded."""
    with using_data_dir(tmp_path / ".vibetuner"), on_terminal(redirect_stderr) as read:
        with using_settings(Settings(redis_url="redis://cache:6379", mongodb_url=None)):
            note_start()
        with using_settings(Settings(redis_url="embedded", mongodb_url=None)):
            note_start()

        assert read("…\n") == "starting the embedded services …\n"


@pytest.mark.parametrize(
    ("detail", "command"),
    [
        (TaskDetail(row=row(State.FAILED), is_dead=True), "vibetuner dead-letters retry a1"),
        (TaskDetail(row=row(State.DONE)), "vibetuner tasks list"),
        (TaskDetail(row=row(State.QUEUED)), "vibetuner tasks why a1   (or abort)"),
    ],
)
def test_a_task_is_followed_by_the_next_command(detail: TaskDetail, command: str):
    """A task on a terminal is followed by the next command to type."""
    with on_terminal() as read:
        print_detail(detail)
        assert read(f"{command}\n").endswith(f"\nNext:  {command}\n")


def test_a_list_names_the_way_to_a_task_and_to_the_next_page():
    """A list on a terminal names the command for a task, and the option for the next page.

    The address of a page is quoted for the shell.
    """
    with on_terminal() as read:
        print_page(Page([row(State.QUEUED)], "queued!0:7-1"))
        text = read("show a1\n")
    assert text.endswith("More:  --after 'queued!0:7-1'\nNext:  vibetuner tasks show a1\n")


def test_a_tasks_result_and_ties_are_shown(capsys: pytest.CaptureFixture[str]):
    """The result, the parents and the children of a task are shown in a line each."""
    print_detail(TaskDetail(row=row(State.DONE), result="7", parents=["b", "c"], children=["d"]))
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-3:])
    assert facts == {"result": "7", "waits": "for    b, c", "needed": "by    d"}


def test_reasons_are_readable_by_a_program(capsys: pytest.CaptureFixture[str]):
    """The JSON of a task's reasons contains its id and its state."""
    reasons = [Reason("No worker is running", "vibetuner run")]
    print_reasons(row(State.QUEUED), reasons, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["id"], document["state"]) == ("a1", "queued")
    assert document["reasons"] == [{"text": "No worker is running", "cure": "vibetuner run"}]


def test_numbers_name_what_nobody_works_on(capsys: pytest.CaptureFixture[str]):
    """The numbers name rows of the outbox and queues that no worker handles.

    The number of dead letters may be unknown, which is not zero.
    """
    stats = Stats(
        counts=Counts(
            queued=3,
            running=0,
            scheduled=1,
            ended=0,
            queues=[
                QueueView(name="default", queued=1, scheduled=0, readers=2),
                QueueView(name="mail", queued=2, scheduled=1, readers=0),
            ],
        ),
        dead=None,
        outbox=Outbox(3, 120.0),
        hour=Span("hour"),
        day=Span("day"),
        workers=[],
        faults={},
    )
    with using_settings(Settings(environment="test")):
        print_stats(stats)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 running, 3 queued, 1 scheduled, unknown dead"
    assert lines[1].endswith("the oldest for 2 min 0 s: no worker hands them on")
    assert "queue default  1 queued, 0 scheduled  read by 2 live workers" in lines
    assert "queue mail  2 queued, 1 scheduled  no live worker reads it" in lines
    assert lines[-1].startswith("No live worker. Start one:  vibetuner run")


def test_numbers_name_workers_that_need_somebody(capsys: pytest.CaptureFixture[str]):
    """A worker of older code, and one whose clock is off, are named with the cure."""
    beat = Beat(
        id="a1b2", host="vm", pid=7, started=0, at=0, concurrency=16, running=0, code="old",
        project="shop", version="0.1.0",
    )  # fmt: skip
    views = [
        WorkerView(beat, 1.0),
        WorkerView(replace(beat, id="c3d4", code="new"), 1.0, ahead=-90.0),
        WorkerView(replace(beat, id="e5f6", code="new"), 1.0, ahead=1.5),
        WorkerView(replace(beat, id="f7a8", project="bakery"), 1.0),
        WorkerView(replace(beat, id="a9b0"), 50.0),
    ]
    counts = Counts(queued=0, running=0, scheduled=0, ended=0, queues=[])
    stats = Stats(
        counts=counts,
        dead=0,
        outbox=None,
        hour=Span("hour"),
        day=Span("day"),
        workers=views,
        faults={view.beat.id: view.faults("shop", "new") for view in views},
    )
    print_stats(stats)
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    assert lines == [
        "a1b2 runs other code (version 0.1.0) than is here",
        "restart whichever is older",
        "the clock of vm is 90 s behind that of Redis (c3d4)",
        "keep both in time by NTP: schedules and shown times go by them",
        "f7a8 belongs to another project, bakery: each fails the other's tasks",
        "give each project a REDIS_KEY_PREFIX of its own",
    ]
    print_stats(stats, as_json=True)
    workers = json.loads(capsys.readouterr().out)["workers"]
    assert [len(one["faults"]) for one in workers] == [1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (ProgressState(task_id="a", status=ProgressStatus.COMPLETE, done=9, total=10), "100%"),
        (ProgressState(task_id="a", status=ProgressStatus.FAILED), "failed"),
    ],
)
def test_a_terminal_shows_a_bar(end: ProgressState, words: str, monkeypatch: pytest.MonkeyPatch):
    """A terminal shows a bar until the task has ended, and messages above it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with on_terminal() as read, _as_bar() as view:
        view.show(
            ProgressState(task_id="a", status=ProgressStatus.RUNNING, done=5, message="[rows]")
        )
        view.say("Redis answers again")
        view.show(end)
        text = read(words)
    assert "Redis answers again" in text
