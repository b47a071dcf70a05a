"""Compares the tasks that tune.py lists with those that are decorated."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streaq import Worker
from streaq.task import RegisteredTask

from vibetuner.app import VibetunerApp
from vibetuner.crontab import find_ambiguity
from vibetuner.errors import ProjectError, TaskNotFound, first_few, suggest
from vibetuner.loader import import_module_of
from vibetuner.project import ProjectInfo
from vibetuner.tasks.queues import declared_queue, list_queues

logger = logging.getLogger(__name__)


def import_tasks(project: ProjectInfo) -> None:
    """Import every module of the project's ``tasks``, so that every task is registered.

    Raises ProjectError if a module is broken; the message names file and line.
    """
    source = project.root / "src"
    tasks = source / project.package / "tasks"
    for path in (tasks.with_suffix(".py"), *sorted(tasks.rglob("*.py"))):
        parts = path.relative_to(source).with_suffix("").parts
        if path.is_file() and all(map(str.isidentifier, parts)):
            import_module_of(project, ".".join(parts).removesuffix(".__init__"))


def check_tasks(app: VibetunerApp, worker: Worker[Any]) -> None:
    """Compare ``app.tasks`` with the tasks registered with ``worker``; log the warnings.

    Raises ProjectError if something listed is not a task of this worker, is listed twice, or a task
    is not listed; the message names it, its file and line.
    """
    if problems := find_problems(app, worker):
        raise ProjectError("; ".join(problems))
    for warning in find_warnings(worker):
        logger.warning("ambiguous schedule: %s", warning)


def check_name(worker: Worker[Any], name: str, function: Callable[..., Any]) -> None:
    """Raise if ``worker`` has another task of this name, before ``function`` is registered.

    Raises ValueError if two tasks have this name; the message names both places.
    """
    if (registered := worker.registry.get(name)) is None:
        return
    other = inspect.unwrap(registered.fn)
    if _place(other) == _place(function) and other.__module__ != function.__module__:
        raise ValueError(
            f"The module of the task {name}{_place(function)} is imported twice, as "
            f"{other.__module__} and as {function.__module__}. Import it under one name"
        )
    raise ValueError(
        f"Two tasks are named {name}: one{_place(other)} and one{_place(function)}. "
        "Pass name=... to the decorator of one"
    )


def find_named(worker: Worker[Any], name: str) -> Any:
    """Return the task of this name.

    Raises TaskNotFound if there is none; the message suggests a similar name.
    """
    if name in (tasks := worker.registry):
        return tasks[name]
    known = f"There are: {first_few(sorted(tasks), 5)}" if tasks else "tune.py lists no tasks"
    raise TaskNotFound(f"The project has no task {name}. {suggest(name, tasks, known)}")


def find_warnings(worker: Worker[Any]) -> list[str]:
    """Return schedules that POSIX cron would read differently, each with its task and place."""
    found = (
        (name, task, find_ambiguity(task.crontab or "")) for name, task in worker.registry.items()
    )
    return [f"{name}{_place(task.fn)}: {warning}" for name, task, warning in found if warning]


def find_problems(app: VibetunerApp, worker: Worker[Any]) -> list[str]:
    """Return the differences between ``app.tasks`` and ``worker``'s tasks, each with its cure."""
    return [*_wrongly_listed(app, worker), *_wrongly_decorated(app, worker)]


def _wrongly_listed(app: VibetunerApp, worker: Worker[Any]) -> Iterator[str]:
    listed = Counter(item.fn_name for item in app.tasks if isinstance(item, RegisteredTask))
    for item in app.tasks:
        if not isinstance(item, RegisteredTask):
            name = getattr(item, "__qualname__", repr(item))
            yield (
                f"tune.py lists {name}{_place(item)}, which is not a task. "
                "Decorate it with @worker.task(), or take it out of tasks=[...]"
            )
        elif item.worker is not worker:
            place = _place(getattr(item, "fn", None))
            yield (
                f"tune.py lists {item.fn_name}{place}, a task of another worker. "
                "Decorate it with that of get_worker(), from vibetuner.tasks.worker"
            )
    for name in sorted(name for name, count in listed.items() if count > 1):
        yield f"tune.py lists {name} more than once. Keep one"


def _wrongly_decorated(app: VibetunerApp, worker: Worker[Any]) -> Iterator[str]:
    listed = {item.fn_name for item in app.tasks if isinstance(item, RegisteredTask)}
    for name, task in worker.registry.items():
        if name not in listed:
            yield (
                f"The task {name}{_place(task.fn)} is not listed in tune.py. "
                "Add it to tasks=[...] there"
            )
        queue = declared_queue(task)
        if queue and queue not in worker.priorities:
            yield (
                f"The task {name}{_place(task.fn)} goes into the queue {queue!r}, which tune.py "
                f"does not declare. {list_queues(worker.priorities)}, or add it to "
                "queues=[...]"
            )


def _place(item: object) -> str:
    function = inspect.unwrap(item) if callable(item) else None
    code = getattr(function, "__code__", None)
    return f" ({Path(code.co_filename)}:{code.co_firstlineno})" if code else ""
