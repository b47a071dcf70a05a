"""Compares what tune.py lists with what is decorated: ``tasks=`` is true, not decoration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaq import Worker
from streaq.task import RegisteredTask

from vibetuner.app import VibetunerApp
from vibetuner.errors import ProjectError
from vibetuner.loader import import_module_of
from vibetuner.project import ProjectInfo

__all__ = ["check_tasks", "find_problems", "import_tasks"]


def import_tasks(project: ProjectInfo) -> None:
    """Import every module of the project's ``tasks``, so that nothing hides.

    Raises:
        ProjectError: one of them is broken; the message names file and line.
    """
    source = project.root / "src"
    tasks = source / project.package / "tasks"
    for path in (tasks.with_suffix(".py"), *sorted(tasks.rglob("*.py"))):
        parts = path.relative_to(source).with_suffix("").parts
        if path.is_file() and all(map(str.isidentifier, parts)):
            import_module_of(project, ".".join(parts).removesuffix(".__init__"))


def check_tasks(app: VibetunerApp, worker: Worker[Any]) -> None:
    """Compare ``app.tasks`` with the tasks that are registered with ``worker``.

    Raises:
        ProjectError: something listed is not a task of this worker, is listed twice, or a task is
            not listed; the message names it, its file and line.
    """
    if problems := find_problems(app, worker):
        raise ProjectError("; ".join(problems))


def find_problems(app: VibetunerApp, worker: Worker[Any]) -> list[str]:
    """Where ``app.tasks`` and the tasks of ``worker`` disagree; each says what to do."""
    return [
        *_not_tasks(app),
        *_foreign_tasks(app, worker),
        *_listed_twice(app),
        *_not_listed(app, worker),
    ]


def _not_tasks(app: VibetunerApp) -> Iterator[str]:
    for item in app.tasks:
        if not isinstance(item, RegisteredTask):
            name = getattr(item, "__qualname__", repr(item))
            yield (
                f"tune.py lists {name}{_place(item)}, which is not a task. "
                "Decorate it with @worker.task(), or take it out of tasks=[...]"
            )


def _foreign_tasks(app: VibetunerApp, worker: Worker[Any]) -> Iterator[str]:
    for item in app.tasks:
        if isinstance(item, RegisteredTask) and item.worker is not worker:
            place = _place(getattr(item, "fn", None))
            yield (
                f"tune.py lists {item.fn_name}{place}, a task of another worker. "
                "Decorate it with that of get_worker(), from vibetuner.tasks.worker"
            )


def _listed_twice(app: VibetunerApp) -> Iterator[str]:
    names = [item.fn_name for item in app.tasks if isinstance(item, RegisteredTask)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"tune.py lists {name} more than once. Keep one"


def _not_listed(app: VibetunerApp, worker: Worker[Any]) -> Iterator[str]:
    listed = {item.fn_name for item in app.tasks if isinstance(item, RegisteredTask)}
    for name, task in worker.registry.items():
        if name not in listed:
            yield (
                f"The task {name}{_place(task.fn)} is not listed in tune.py. "
                "Add it to tasks=[...] there"
            )


def _place(item: object) -> str:
    function = inspect.unwrap(item) if callable(item) else None
    code = getattr(function, "__code__", None)
    return f" ({Path(code.co_filename)}:{code.co_firstlineno})" if code else ""
