"""`vibetuner new` in a small project."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import run_vibetuner
from tests.projects import write_project, write_shop

Type = Callable[..., subprocess.CompletedProcess[str]]

TASK = "src/shop/tasks/send_report.py"
TEST = "tests/tasks/test_send_report.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a project without tasks."""
    return write_project(tmp_path / "shop")


@pytest.fixture
def type_(project: Path) -> Type:
    """Return a function that runs `vibetuner …` in the project, or in a folder below it."""

    def type_(*arguments: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
        return run_vibetuner(*arguments, folder=project / folder)

    return type_


def test_a_task_its_test_and_its_line_in_tune_py(project: Path, type_: Type):
    """`new task` writes the task, its test and its line in tune.py, and prints the next steps."""
    done = type_("new", "task", "SendReport")

    assert (done.returncode, done.stderr) == (0, "")
    assert "async def send_report(item_id: str)" in (project / TASK).read_text()
    test = (project / TEST).read_text()
    assert 'change this line.\nARGUMENTS = ("42",)\n' in test
    assert test.count('"42"') == 3  # here, and in the two expected results
    assert "await send_report(*ARGUMENTS)" in test
    assert "tasks=[send_report]" in (project / "src/shop/tune.py").read_text()
    head, _, steps = done.stdout.partition("Next:\n")
    assert head.split()[:2] == ["create", TASK]
    assert [line.strip() for line in steps.splitlines()] == [
        f"uv run pytest {TEST}", "uv run just worker-dev", "uv run just check",
    ]  # fmt: skip


def test_the_same_again_changes_nothing(project: Path, type_: Type):
    """`new` with the same name, in any spelling and from any folder, changes nothing."""
    type_("new", "task", "send-report")
    before = snapshot(project)
    again = type_("new", "task", "SendReport", folder="src/shop")

    assert (again.returncode, again.stdout) == (0, "unchanged\n")
    assert snapshot(project) == before


def test_a_file_that_differs_is_shown_and_left_alone(project: Path, type_: Type):
    """`new` shows how a file would differ, leaves it alone, and writes no other file."""
    (project / TASK).parent.mkdir()
    (project / TASK).write_text("mine = 1\n")
    before = snapshot(project)
    refused = type_("new", "task", "send-report")

    assert refused.returncode == 1
    assert "-mine = 1\n+" in refused.stdout
    assert refused.stderr.splitlines() == [
        f"error: Nothing was written: {TASK} would be different. --force takes the new text, "
        "--skip keeps the old"
    ]
    assert snapshot(project) == before


def test_force_overwrites_and_skip_keeps(project: Path, type_: Type):
    """--force overwrites a file that differs, --skip keeps it, and both at once are refused."""
    (project / TASK).parent.mkdir()
    (project / TASK).write_text("mine = 1\n")

    assert type_("new", "task", "send-report", "--force", "--skip").returncode == 1
    assert type_("new", "task", "send-report", "--skip").returncode == 0
    assert (project / TASK).read_text() == "mine = 1\n"
    assert (project / TEST).is_file()
    forced = type_("new", "task", "send-report", "--force")
    assert f"overwrite  {TASK}" in forced.stdout
    assert "async def send_report" in (project / TASK).read_text()


def test_a_dry_run_shows_the_whole_diff(project: Path, type_: Type):
    """--dry-run prints the whole diff and writes no file."""
    before = snapshot(project)
    shown = type_("new", "task", "send-report", "--dry-run")

    assert shown.returncode == 0
    for line in (f"+++ b/{TASK}", f"+++ b/{TEST}", "+app = VibetunerApp(tasks=[send_report])"):
        assert line in shown.stdout
    assert snapshot(project) == before


def test_the_diff_of_a_dry_run_can_be_applied(project: Path, type_: Type):
    """`git apply` of the printed diff makes what the command would have made."""
    shown = type_("new", "task", "billing/send-report", "--dry-run").stdout
    subprocess.run(["git", "apply", "-p1", "-"], cwd=project, input=shown, text=True, check=True)

    assert (
        "async def send_report" in (project / "src/shop/tasks/billing/send_report.py").read_text()
    )
    assert "tasks=[send_report]" in (project / "src/shop/tune.py").read_text()


def test_json_names_files_edits_and_next_steps(type_: Type):
    """--json prints one document of files, edits and next steps, in a dry run as well."""
    planned = json.loads(type_("new", "task", "send-report", "--json", "--dry-run").stdout)
    document = json.loads(type_("new", "task", "send-report", "--json").stdout)

    assert (planned["written"], document["written"]) == (False, True)
    assert planned["files"] == document["files"]
    assert [file["path"] for file in document["files"]][:2] == [TASK, TEST]
    assert {file["action"] for file in document["files"]} == {"create"}
    [edit] = document["edits"]
    assert (edit["path"], edit["action"]) == ("src/shop/tune.py", "edit")
    assert "+from shop.tasks.send_report import send_report" in edit["diff"]
    assert len(document["next"]) == 3


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cron", "0 3 * * *"], '@robust_cron("0 3 * * *", max_retries=3)'),
        (["--unique"], "@robust_task(max_retries=3, timeout=timedelta(minutes=5), unique=True)"),
        (["--timeout", "90"], "@robust_task(max_retries=3, timeout=timedelta(seconds=90))"),
        (["--timeout", "2h"], "@robust_task(max_retries=3, timeout=timedelta(hours=2))"),
        (["--sync"], "\ndef send_report(item_id: str)"),
    ],
)
def test_options_shape_the_task(project: Path, type_: Type, options: list[str], line: str):
    """Each option changes the decorator of the task or its definition."""
    assert type_("new", "task", "send-report", *options).returncode == 0
    assert line in (project / TASK).read_text()


def test_without_a_test_there_is_none(project: Path, type_: Type):
    """--no-test writes no test and no folder for it."""
    type_("new", "task", "send-report", "--no-test")

    assert (project / TASK).is_file()
    assert not (project / "tests").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["json"], "json is a module of Python's library. Try:  json_job"),
        (["fastapi"], "fastapi is the name of a package here. Try:  fastapi_job"),
        (["shop"], "shop is the name of a package here. Try:  shop_job"),
        (["../x"], "../x would leave the folder of the tasks. Try:  x"),
        (["x", "--cron", "often"], "--cron: The schedule 'often' has 1 field and takes five"),
        (["x", "--cron", "99 3 * * *"], "--cron: The schedule '99 3 * * *' has a wrong minute: 99"),
        (["x", "--timeout", "soon"], "--timeout takes seconds, or 90s, 5m, 1h, not 'soon'"),
        (["x", "--timeout", "0"], "--timeout takes seconds, or 90s, 5m, 1h, not '0'"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(
    project: Path, type_: Type, arguments: list[str], message: str
):
    """A name, schedule or timeout that can't be is refused in one line, and no file is written."""
    before = snapshot(project)
    refused = type_("new", "task", *arguments)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {message}")
    assert refused.stderr.count("\n") == 1
    assert snapshot(project) == before


def test_a_task_name_is_free_only_once(tmp_path: Path):
    """A task's name is refused if another module has it, since Redis knows a task by its name."""
    project = write_shop(tmp_path / "shop")
    refused = run_vibetuner("new", "task", "billing/add", folder=project)

    assert refused.returncode == 1
    assert refused.stderr.startswith("error: The task name add is taken by src/shop/jobs.py:")
    assert refused.stderr.endswith("Try:  billing/billing_add\n")

    run_vibetuner("new", "task", "order-item", folder=project)
    refused = run_vibetuner("new", "batch", "order", folder=project)
    assert refused.stderr.startswith(
        "error: The task name order_item is taken by src/shop/tasks/order_item.py:"
    )


def test_tune_py_that_can_not_be_edited_leaves_everything_as_it_was(project: Path, type_: Type):
    """If tune.py can't be edited, `new` names the two lines to add and writes nothing."""
    (project / "src/shop/tune.py").write_text(
        "from vibetuner import VibetunerApp\nTASKS = []\napp = VibetunerApp(tasks=TASKS)\n"
    )
    before = snapshot(project)
    refused = type_("new", "task", "send-report")

    assert refused.returncode == 1
    assert "from shop.tasks.send_report import send_report" in refused.stderr
    assert "tasks=[..., send_report]" in refused.stderr
    assert snapshot(project) == before


def test_a_module_in_the_way_of_a_package_is_named_with_the_cure(project: Path, type_: Type):
    """If tasks.py is in the way of the folder tasks/, the error has the command that moves it."""
    (project / "src/shop/tasks.py").write_text("")
    refused = type_("new", "task", "send-report")

    assert "mkdir src/shop/tasks && git mv src/shop/tasks.py" in refused.stderr


def test_outside_a_project_new_is_refused(tmp_path: Path):
    """`new` outside a project fails with one line that names the folder."""
    refused = run_vibetuner("new", "task", "reports", folder=tmp_path)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {tmp_path} is in no vibetuner project.")
    assert refused.stderr.count("\n") == 1


def test_a_projects_own_template_wins(project: Path, type_: Type):
    """A template in the project takes precedence, and ejecting again keeps it."""
    ejected = type_("new", "--eject-templates")
    template = project / "scaffold" / "task.py.jinja"
    template.write_text('"""Ours: {{ name.title }}."""\n', encoding="utf-8")
    again = type_("new", "--eject-templates")
    type_("new", "task", "send-report")

    assert "create  scaffold/test_task.py.jinja" in ejected.stdout
    assert "keep  scaffold/task.py.jinja" in again.stdout
    assert (project / TASK).read_text() == '"""Ours: Send report."""\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ nmae }}", "scaffold/task.py.jinja: 'nmae' is undefined"),
        ("{{ 1 / 0 }}", "scaffold/task.py.jinja: division by zero"),
        ("\n{% if %}", "scaffold/task.py.jinja:2: Expected an expression"),
    ],
)
def test_a_broken_template_is_named(project: Path, type_: Type, text: str, message: str):
    """An error in a project's own template is named with its file, and with its line if known."""
    (project / "scaffold").mkdir()
    (project / "scaffold" / "task.py.jinja").write_text(text)
    refused = type_("new", "task", "send-report")

    assert refused.returncode == 1
    assert message in refused.stderr


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".vibetuner" not in path.parts
    }


def test_without_a_name_the_help_is_shown(type_: Type):
    """`vibetuner new` without a name prints the help, with the exit code of a wrong command."""
    done = type_("new")
    assert done.returncode == 2
    assert "vibetuner new [OPTIONS] COMMAND" in done.stdout


def test_a_schedule_that_surprises_is_a_warning(project: Path, type_: Type):
    """A schedule that cron would read differently causes a warning, and the task is written."""
    done = type_("new", "task", "bill", "--cron", "0 3 1 * 1")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: ")
    assert (project / "src/shop/tasks/bill.py").is_file()


@pytest.mark.parametrize(
    ("verb", "words"),
    [("new", "The pages need src/shop/templates/base.html"), ("destroy", "There is no ")],
)
def test_sign_in_needs_what_it_is_made_of(type_: Type, verb: str, words: str):
    """`auth` is refused in one line if what it needs is missing."""
    done = type_(verb, "auth")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1
