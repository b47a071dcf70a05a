"""`vibetuner destroy`, and the pages and models that `vibetuner new` writes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.processes import run_vibetuner
from tests.projects import write, write_project
from tests.runtime.cli.test_new import TASK, TEST, Type, project, snapshot, type_
from tests.runtime.tasks.letters.conftest import keep, make_letter, payload_of
from vibetuner.config import Settings
from vibetuner.tasks.worker import open_queue

__all__ = ["project", "type_"]

THINGS = [
    ("task", "send-report"),
    ("task", "billing/send-report", "--cron", "0 3 * * *", "--timeout", "2h"),
    ("task", "send-report", "--sync", "--unique"),
    ("task", "send-report", "--no-test"),
    ("task", "send-report", "--progress"),
    ("batch", "send-report"),
    ("batch", "billing/send-report"),
    ("route", "reports"),
    ("route", "billing/reports"),
    ("model", "invoice", "number", "paid_at:datetime?", "total:int"),
    ("model", "note", "text:str", "--document"),
]


@pytest.mark.parametrize("arguments", THINGS, ids=" ".join)
def test_destroy_removes_what_new_writes(project: Path, type_: Type, arguments: tuple[str, ...]):
    """`destroy` removes what `new` wrote with any options, except the packages of any project."""
    before = snapshot(project)
    made = type_("new", *arguments)
    taken = type_("destroy", *arguments[:2])

    assert (made.returncode, taken.returncode) == (0, 0), taken.stderr
    after = snapshot(project)
    assert {path for path in after if path not in before} <= {
        "src/shop/tasks/__init__.py",
        "src/shop/frontend/__init__.py",
    }
    assert before.items() <= after.items()


def test_what_was_changed_since_is_kept(project: Path, type_: Type):
    """A file that was changed since is kept until --force; --skip removes the others."""
    type_("new", "task", "send-report")
    (project / TEST).write_text("# my own\n")
    before = snapshot(project)
    refused = type_("destroy", "task", "send-report")

    assert refused.returncode == 1
    assert f"Changed since it was generated: {TEST}. " in refused.stderr
    assert "-# my own" in refused.stdout
    assert snapshot(project) == before
    assert type_("destroy", "task", "send-report", "--skip").returncode == 0
    assert (project / TEST).is_file()
    assert not (project / TASK).exists()


def test_a_task_that_is_kept_stays_in_tune_py(project: Path, type_: Type):
    """A task whose file is kept stays in tune.py.

    A worker refuses to start when tune.py and the decorated tasks disagree.
    """
    type_("new", "task", "send-report")
    with (project / TASK).open("a") as file:
        file.write("\n\nLIMIT = 1\n")
    type_("destroy", "task", "send-report", "--skip")

    assert "tasks=[send_report]" in (project / "src/shop/tune.py").read_text()
    assert not (project / TEST).exists()
    assert type_("destroy", "task", "send-report", "--force").returncode == 0
    assert not (project / TASK).exists()


def test_a_page_that_is_kept_keeps_what_it_imports(project: Path, type_: Type):
    """`destroy --skip` keeps the tasks and templates of a changed page, and their lines in tune.py.

    Otherwise the page would import a module that is gone.
    """
    type_("new", "batch", "send-report")
    page = project / "src/shop/frontend/routes/send_report.py"
    page.write_text(page.read_text() + "# my own\n")
    tune = (project / "src/shop/tune.py").read_text()
    kept = type_("destroy", "batch", "send-report", "--skip", "--json")

    files = {file["path"]: file["action"] for file in json.loads(kept.stdout)["files"]}
    assert {path for path, action in files.items() if action == "remove"} == {
        TEST,
        "tests/tasks/__init__.py",
    }
    assert (project / "src/shop/tune.py").read_text() == tune
    assert "queued" not in json.loads(kept.stdout)


def test_a_page_goes_without_the_tasks_that_are_kept(project: Path, type_: Type):
    """`destroy --skip` keeps changed tasks; their page goes, and its line in tune.py."""
    type_("new", "batch", "send-report")
    with (project / TASK).open("a") as file:
        file.write("\n\nLIMIT = 1\n")
    type_("destroy", "batch", "send-report", "--skip")

    tune = (project / "src/shop/tune.py").read_text()
    assert "tasks=[send_report_item, send_report_end]" in tune
    assert "send_report_router" not in tune
    assert not (project / "src/shop/frontend/routes/send_report.py").exists()


def test_a_dry_run_with_json_changes_nothing(project: Path, type_: Type):
    """`destroy --dry-run --json` prints what would be removed, and changes nothing."""
    type_("new", "task", "send-report")
    before = snapshot(project)
    document = json.loads(type_("destroy", "task", "send-report", "--dry-run", "--json").stdout)

    assert document["written"] is False
    assert {file["path"]: file["action"] for file in document["files"]}[TASK] == "remove"
    assert snapshot(project) == before


def test_a_thing_that_is_not_there_can_not_be_destroyed(type_: Type):
    """`destroy` of a task that doesn't exist names the file that it looked for."""
    refused = type_("destroy", "task", "send-report")

    assert refused.returncode == 1
    assert refused.stderr == (f"error: There is no task send_report: {TASK} does not exist\n")


def test_queued_and_dead_tasks_of_that_name_are_reported(tmp_path: Path, settings: Settings):
    """`destroy` reports the queued tasks and dead letters of that name, which can't run any more.

    A task that can't be read is no obstacle.
    """
    folder = write_project(tmp_path / "shop")
    environment = {
        "REDIS_URL": settings.redis_url or "",
        "REDIS_KEY_PREFIX": settings.redis_key_prefix,
        "SECRET_KEY": "a key that the tests share, and nobody else",
    }
    made = run_vibetuner("new", "task", "send-report", folder=folder)
    assert made.returncode == 0, made.stderr
    asyncio.run(leave_some("send_report"))
    gone = run_vibetuner("destroy", "task", "send-report", "--json", folder=folder, **environment)

    assert gone.returncode == 0, gone.stderr
    document = json.loads(gone.stdout)
    assert (document["queued"], document["dead"]) == (1, 1), gone.stderr
    assert "1 of send_report still in the queue" in gone.stderr
    assert "vibetuner dead-letters list --task send_report" in gone.stderr


async def leave_some(name: str) -> None:
    """Leave a task of that name in the queue, one with a wrong signature, and a dead letter."""
    async with open_queue() as worker:
        await worker.enqueue_unsafe(name, "42")
        forged = await worker.enqueue_unsafe(name, "43")
        await worker.redis.set(worker.task_key + forged.id, b"signed with another key" * 3)
        letter = make_letter("a1", task_name=name, payload=await payload_of(worker, "42"))
        await keep(worker.redis, f"{worker.queue_name}:", letter)


def test_a_queue_that_does_not_answer_is_no_obstacle(project: Path, type_: Type):
    """`destroy` removes a task while Redis is away, and notes that it counted no tasks."""
    type_("new", "task", "send-report")
    gone = run_vibetuner(
        "destroy", "task", "send-report", folder=project, REDIS_URL="redis://127.0.0.1:1"
    )

    assert gone.returncode == 0
    assert gone.stderr.startswith("note: queued and dead tasks were not looked for.")
    assert not (project / TASK).exists()


def test_a_page_stands_in_the_projects_own_frame(project: Path, type_: Type):
    """A generated page extends base.html if that has a block for content, or else stands alone."""
    page = project / "src/shop/templates/reports.html"
    type_("new", "route", "reports")
    assert page.read_text().startswith("<!doctype html>")
    page.with_name("base.html").write_text("{% block content %}{% endblock %}")
    type_("new", "route", "reports", "--force")
    assert '{% extends "base.html" %}' in page.read_text()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["number:text"], "A field is name:type"),
        (["number:str", "number:int"], "The field number is given twice. Keep one"),
        (["copy:str"], "A model can't have a field named copy. Try:  copy_value"),
        (["class:str"], "A model can't have a field named class. Try:  class_value"),
        (["a:date", "--document"], "A field is name:type"),
    ],
)
def test_a_field_that_can_not_be_is_refused(type_: Type, fields: list[str], message: str):
    """A field that can't be generated is refused in one line, with what would be right."""
    refused = type_("new", "model", "invoice", *fields)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {message}")


ORDERS = """
    from sqlmodel import Field, SQLModel


    class Order(SQLModel, table=True):
        __tablename__ = "orders"

        id: int | None = Field(default=None, primary_key=True)
"""


@pytest.mark.parametrize("arguments", [["Order"], ["sales/orders"], ["order", "--document"]])
def test_a_model_or_a_table_that_exists_is_named_with_its_file(
    project: Path, type_: Type, arguments: list[str]
):
    """A model or table that exists is refused with its file, and nothing is written."""
    write(project / "src/shop/models/__init__.py", ORDERS)
    before = snapshot(project)
    refused = type_("new", "model", *arguments)

    assert refused.returncode == 1
    assert refused.stderr.startswith(
        "error: src/shop/models/__init__.py:4 has the model Order already, in the table orders. "
    )
    assert snapshot(project) == before


def test_a_model_comes_with_its_migration(project: Path, type_: Type):
    """A model comes with a migration after the newest one, which stays when the model goes."""
    write_versions(project, first=None)
    made = type_("new", "model", "order", "paid_at:datetime?")
    again = type_("new", "model", "order", "paid_at:datetime?")
    [path] = (project / "src/shop/migrations/versions").glob("*_create_orders.py")
    taken = type_("destroy", "model", "order")

    assert "uv run vibetuner db upgrade" in made.stdout
    assert again.stdout == "unchanged\n"
    assert 'down_revision = "first"' in path.read_text()
    assert 'sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),' in path.read_text()
    assert "uv run vibetuner db revision 'Remove orders'" in taken.stdout
    assert path.exists()
    back = type_("new", "model", "order", "paid_at:datetime?")
    assert "uv run vibetuner db revision 'Create orders'" in back.stdout


def test_a_model_that_can_not_follow_one_migration_is_refused(project: Path, type_: Type):
    """A model is refused while there are two newest migrations, which must be joined first."""
    write_versions(project, first=None, second=None)
    refused = type_("new", "model", "order")

    assert refused.returncode == 1
    assert refused.stderr == (
        "error: There are 2 newest revisions: first, second. Join them:  "
        "uv run alembic merge heads -m 'merge'\n"
    )


def write_versions(project: Path, **parents: str | None) -> None:
    """Write a folder of migrations with these revisions."""
    folder = project / "src/shop/migrations"
    write(folder / "env.py", "")
    for name, parent in parents.items():
        text = f"revision = {name!r}\ndown_revision: str | None = {parent!r}\n"
        write(folder / "versions" / f"{name}.py", text)
