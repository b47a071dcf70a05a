"""A task: its module, its test, its line in tune.py."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vibetuner.crontab import check_crontab
from vibetuner.errors import CommandError
from vibetuner.scaffold.draft import Draft, Place, packages_of, test_path
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.registered import find_tasks
from vibetuner.scaffold.rendering import Renderer
from vibetuner.scaffold.route import has_base, route_entry

__all__ = ["TaskOptions", "check_free", "draft_task", "parse_timeout", "read_task_options"]

PROGRESS = "vibetuner.tasks.progress"
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# unique=True needs a limit: for that long the lock holds.
DEFAULT_UNIQUE_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a new task is to be like.

    Raises:
        CommandError: options that exclude each other, or a schedule that is none.
    """

    cron: str | None = None
    unique: bool = False
    timeout: timedelta | None = None
    sync: bool = False
    progress: bool = False
    test: bool = True

    def __post_init__(self) -> None:
        if self.cron is not None:
            _check_cron(self.cron)
        if self.progress and (self.sync or self.cron is not None):
            raise CommandError(
                "--progress is for somebody who watches, and sends events: it goes neither with "
                "--cron nor with --sync"
            )

    @property
    def limit(self) -> timedelta | None:
        """The timeout that is written."""
        needed = self.unique and self.cron is None
        return self.timeout or (DEFAULT_UNIQUE_TIMEOUT if needed else None)


def draft_task(place: Place, name: Name, options: TaskOptions) -> Draft:
    """Everything that a task of this name consists of."""
    render = Renderer(place).render
    values = {
        "name": name,
        "cron": options.cron,
        "sync": options.sync,
        "timeout": options.limit,
        "arguments": _decorator_arguments(options),
    }
    if options.progress:
        return _draft_progress(place, name, values, test=options.test)
    files = {f"{place.source}/tasks/{name.path}.py": render("task.py", **values)}
    test = test_path("tasks", name)
    if options.test:
        files[test] = render("test_task.py", **values)
    return Draft(
        files=files,
        packages=packages_of(place, "tasks", "tasks", name, test=options.test),
        entries=(task_entry(place, name),),
        next_steps=(
            f"uv run pytest {test}" if options.test else "uv run just test",
            "uv run just worker-dev",
            "uv run just check",
        ),
    )


def _draft_progress(place: Place, name: Name, values: dict[str, Any], *, test: bool) -> Draft:
    """A task that tells how far it is, and the page that starts it and shows that."""
    render = Renderer(place).render
    values = {**values, "base": has_base(place.root / place.source)}
    page = f"{place.source}/templates/{name.path}"
    files = {
        f"{place.source}/tasks/{name.path}.py": render("progress_task.py", **values),
        f"{place.source}/frontend/routes/{name.path}.py": render("progress_route.py", **values),
        f"{page}.html": render("progress_page.html", **values),
        f"{page}_run.html": render("progress_run.html", **values),
    }
    path = test_path("tasks", name)
    if test:
        files[path] = render("test_progress.py", **values)
    packages = (
        *packages_of(place, "tasks", "tasks", name, test=test),
        *packages_of(place, "frontend/routes", "routes", name, test=False),
    )
    return Draft(
        files=files,
        packages=packages,
        entries=(task_entry(place, name), route_entry(place, name)),
        next_steps=(
            f"uv run pytest {path}" if test else "uv run just test",
            f"uv run just local-all-with-worker    # http://127.0.0.1:8000/{name.slug}",
            "uv run just check",
        ),
    )


def task_entry(place: Place, name: Name) -> Entry:
    """What tune.py says of a task."""
    module = f"{place.package}.tasks.{name.dotted}"
    return Entry("tasks", module, name.leaf, (name.leaf, f"{name.leaf}_task"))


def check_free(place: Place, name: Name) -> None:
    """Raise CommandError when another file registers a task of this name."""
    path, line = find_tasks(place.root / place.source).get(name.leaf, (None, 0))
    if path is None or path == place.root / place.source / "tasks" / f"{name.path}.py":
        return
    free = "_".join((*name.folders[-1:], name.leaf)) if name.folders else f"{name.leaf}_2"
    where = f"{path.relative_to(place.root)}:{line}"
    suggestion = "/".join((*name.folders, free))
    raise CommandError(f"The task name {name.leaf} is taken by {where}. Try:  {suggestion}")


def parse_timeout(text: str) -> timedelta:
    """A time from ``90``, ``90s``, ``5m`` or ``1h``; raises CommandError for anything else.

    >>> parse_timeout("5m"), parse_timeout("90")
    (datetime.timedelta(seconds=300), datetime.timedelta(seconds=90))
    """
    found = re.fullmatch(r"0*([1-9]\d{0,6})\s*([smhd]?)", text.strip())
    if not found:
        raise CommandError(f"--timeout takes seconds, or 90s, 5m, 1h, not {text!r}")
    return timedelta(**{UNITS[found[2] or "s"]: int(found[1])})


def read_task_options(text: str, name: Name) -> TaskOptions | None:
    """The options that a task's file was made with; None when it was not made like that.

    >>> read_task_options("@robust_task(unique=True)\\nasync def a(): ...", Name((), "a")).unique
    True
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    for node in tree.body:
        match node:
            case (
                ast.FunctionDef(name=found, decorator_list=[ast.Call() as call])
                | ast.AsyncFunctionDef(name=found, decorator_list=[ast.Call() as call])
            ) if found == name.leaf:
                progress = f"from {PROGRESS} import" in text
                return _options_of(call, sync=isinstance(node, ast.FunctionDef), progress=progress)
    return None


def _options_of(call: ast.Call, *, sync: bool, progress: bool) -> TaskOptions | None:
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    tab = call.args[0] if call.args else None
    try:
        return TaskOptions(
            cron=str(ast.literal_eval(tab)) if tab else None,
            unique="unique" in values,
            timeout=_read_timedelta(values.get("timeout")),
            sync=sync,
            progress=progress,
        )
    except (ValueError, TypeError, CommandError):
        return None


def _read_timedelta(value: ast.expr | None) -> timedelta | None:
    if not isinstance(value, ast.Call):
        return None
    return timedelta(**{k.arg: ast.literal_eval(k.value) for k in value.keywords if k.arg})


def _decorator_arguments(options: TaskOptions) -> list[str]:
    given = ["max_retries=3"]
    if options.cron is not None:
        given.insert(0, f'"{options.cron}"')
    if options.limit is not None:
        given.append(f"timeout={_written(options.limit)}")
    if options.unique and options.cron is None:
        given.append("unique=True")
    return given


def _written(limit: timedelta) -> str:
    """In the largest unit that it is a whole number of.

    >>> _written(timedelta(seconds=300)), _written(timedelta(seconds=90))
    ('timedelta(minutes=5)', 'timedelta(seconds=90)')
    """
    seconds = round(limit.total_seconds())
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds % size == 0:
            return f"timedelta({unit}={seconds // size})"
    return f"timedelta(seconds={seconds})"


def _check_cron(tab: str) -> None:
    try:
        check_crontab(tab)
    except ValueError as error:
        raise CommandError(f"--cron: {error}") from None
