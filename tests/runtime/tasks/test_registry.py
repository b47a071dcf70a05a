"""The check that tune.py lists exactly the tasks that are decorated."""

from __future__ import annotations

import sys
from inspect import unwrap
from typing import Any

import pytest

from vibetuner import VibetunerApp
from vibetuner.config import Settings
from vibetuner.errors import ProjectError
from vibetuner.loader import load_project
from vibetuner.project import project_info
from vibetuner.tasks import WorkerDepends
from vibetuner.tasks.registry import check_name, check_tasks, find_warnings, import_tasks
from vibetuner.tasks.worker import TaskWorker


async def forgotten() -> None: ...


@pytest.fixture
def worker(fresh: None) -> TaskWorker:
    """Return a worker without tasks."""
    return TaskWorker(Settings())


def test_listed_and_decorated_tasks_agree(worker: TaskWorker):
    """Tasks and cron tasks that are listed pass the check, whatever their names."""

    @worker.task(name="mail")
    async def mail() -> None: ...

    @worker.task(name="billing")
    def bill() -> None: ...

    @worker.cron("0 3 * * *")
    async def nightly() -> None: ...

    check_tasks(VibetunerApp(tasks=[mail, bill, nightly]), worker)
    assert {"mail", "billing"} < set(worker.registry)


def test_an_unlisted_task_is_named_with_its_place(worker: TaskWorker):
    """The error for an unlisted task has the file and line of its function, and the cure."""

    @worker.task(name="mail")
    async def mail() -> None: ...

    with pytest.raises(ProjectError) as caught:
        check_tasks(VibetunerApp(), worker)

    line = mail.fn.__code__.co_firstlineno
    assert str(caught.value) == (
        f"The task mail ({__file__}:{line}) is not listed in tune.py. Add it to tasks=[...] there"
    )


def test_a_listed_object_that_is_no_task_is_named_with_its_place(worker: TaskWorker):
    """The error names each listed object that is no task, with its place if it is a function."""

    with pytest.raises(ProjectError) as caught:
        check_tasks(VibetunerApp(tasks=[forgotten, "mail", 7]), worker)

    first, second, third = str(caught.value).split("; ")
    place = f"{__file__}:{forgotten.__code__.co_firstlineno}"
    assert f"forgotten ({place}), which is not a task. Decorate it with" in first
    assert "tune.py lists 'mail', which is not a task" in second
    assert "tune.py lists 7, which is not a task" in third


def test_a_task_listed_twice_is_named_once(worker: TaskWorker):
    """A task that is listed three times is reported once."""

    @worker.task(name="mail")
    async def mail() -> None: ...

    with pytest.raises(ProjectError, match="^tune.py lists mail more than once. Keep one$"):
        check_tasks(VibetunerApp(tasks=[mail, mail, mail]), worker)


def test_two_tasks_of_one_name_are_reported_with_both_places(worker: TaskWorker):
    """The error for two tasks of one name has the file and line of both, even behind wrappers."""

    @worker.task(name="mail")
    async def mail(ctx: object = WorkerDepends()) -> None: ...

    async def other() -> None: ...

    with pytest.raises(ValueError, match="Two tasks are named mail") as caught:
        check_name(worker, "mail", other)

    first, second = (f.__code__.co_firstlineno for f in (unwrap(mail.fn), other))
    assert str(caught.value) == (
        f"Two tasks are named mail: one ({__file__}:{first}) and one ({__file__}:{second}). "
        "Pass name=... to the decorator of one"
    )
    check_name(worker, "letter", other)


def test_a_module_imported_under_two_names_gets_its_own_error(worker: TaskWorker):
    """The error for a task of a module that was imported under two names has both names."""

    def make() -> Any:
        async def mail() -> None: ...

        return mail

    worker.task(name="mail")(make())
    again = make()
    again.__module__ = "src.shop.jobs"

    with pytest.raises(ValueError, match=r"imported twice, as .*test_registry and as src\.shop"):
        check_name(worker, "mail", again)


def test_a_schedule_that_cron_reads_differently_is_warned_about(
    worker: TaskWorker, caplog: pytest.LogCaptureFixture
):
    """An ambiguous schedule is logged once at a start, with its task and place."""

    @worker.cron("0 9 13 * fri", name="unlucky")
    async def unlucky() -> None: ...

    @worker.cron("0 9 * * fri", name="weekly")
    async def weekly() -> None: ...

    check_tasks(VibetunerApp(tasks=[unlucky, weekly]), worker)

    line = unlucky.fn.__code__.co_firstlineno
    [warning] = find_warnings(worker)
    assert warning.startswith(f"unlucky ({__file__}:{line}): the schedule '0 9 13 * fri' runs only")
    assert [record.message for record in caplog.records] == [f"ambiguous schedule: {warning}"]


def test_a_task_of_another_worker_is_no_task_of_this_one(worker: TaskWorker):
    """A listed task of another worker raises ProjectError, as nobody would run it."""
    other = TaskWorker(Settings(redis_key_prefix="other"))

    @other.task(name="mail")
    async def mail() -> None: ...

    with pytest.raises(ProjectError, match="mail .*a task of another worker"):
        check_tasks(VibetunerApp(tasks=[mail]), worker)


def test_every_module_of_the_tasks_package_is_imported(stand_in):
    """import_tasks() imports modules of the tasks package that tune.py does not, at any depth."""
    stand_in({"tasks/__init__.py": "", "tasks/mail.py": "", "tasks/deep/er.py": ""})
    load_project()

    import_tasks(project_info())

    assert {"shop.tasks.mail", "shop.tasks.deep.er"} <= set(sys.modules)


def test_a_tasks_module_is_as_good_as_a_package(stand_in):
    """import_tasks() takes a module instead of a package, and a project without either."""
    root = stand_in({"tasks.py": "done = True\n"})
    load_project()

    import_tasks(project_info())
    assert sys.modules["shop.tasks"].done is True
    (root / "src" / "shop" / "tasks.py").unlink()
    del sys.modules["shop.tasks"]
    import_tasks(project_info())
    assert "shop.tasks" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", r"shop/tasks/mail\.py:1: syntax error"),
        ("import nothing_like_it\n", r"shop/tasks/mail\.py:1: ModuleNotFoundError"),
    ],
)
def test_a_broken_module_that_tune_does_not_import_is_one_line(stand_in, source: str, message: str):
    """A broken module raises ProjectError in one line, with its file and line."""
    stand_in({"tasks/__init__.py": "", "tasks/mail.py": source})
    load_project()

    with pytest.raises(ProjectError, match=message) as caught:
        import_tasks(project_info())
    assert "\n" not in str(caught.value)
