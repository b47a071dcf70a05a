"""A task, or a batch of two: modules, pages, a test, and lines in tune.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vibetuner.crontab import check_crontab
from vibetuner.errors import CommandError
from vibetuner.scaffold.draft import Draft, Place, Renderer, next_steps, read_module, test_path
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.registered import find_tasks
from vibetuner.scaffold.route import ROUTES, has_base, route_entry
from vibetuner.timing import UNITS

PROGRESS = "vibetuner.tasks.progress"
# unique=True requires a limit.
DEFAULT_UNIQUE_TIMEOUT = timedelta(minutes=5)

OUTBOX = "vibetuner.tasks.outbox.sql"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of a new task.

    Raises:
        CommandError: options exclude each other, or the schedule is not valid.
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
                "--progress sends events to somebody who watches, so it can't be combined with "
                "--cron or --sync"
            )

    @property
    def limit(self) -> timedelta | None:
        """The time limit that the decorator gets."""
        needed = self.unique and self.cron is None
        return self.timeout or (DEFAULT_UNIQUE_TIMEOUT if needed else None)


def draft_task(place: Place, name: Name, options: TaskOptions) -> Draft:
    """Draft all files of a task with this name."""
    render = Renderer(place).render
    values = {
        "name": name,
        "cron": options.cron,
        "sync": options.sync,
        "timeout": options.limit,
        "arguments": _decorator_arguments(options),
        "base": has_base(place),
    }
    test = test_path("tasks", name)
    imported = (name.leaf, f"{name.leaf}_task")
    entries = [Entry("tasks", place.module("tasks", name), name.leaf, imported)]
    run = "uv run just worker-dev"
    if options.progress:
        files = _with_page("progress", place, name, values)
        entries.append(route_entry(place, name))
        run = f"uv run just local-all-with-worker    # http://127.0.0.1:8000/{name.slug}"
    else:
        files = {place.path("tasks", name): render("task.py", **values)}
    if options.test:
        files[test] = render("test_progress.py" if options.progress else "test_task.py", **values)
    return Draft(
        files=files,
        entries=tuple(entries),
        next_steps=next_steps(test if options.test else "", run),
    )


def draft_of_task(place: Place, name: Name) -> Draft:
    """Draft a task as it was generated; raise CommandError if there is none of this name."""
    text = read_module(place, place.path("tasks", name), f"task {name.path}")
    return draft_task(place, name, _read_options(text))


def check_free(place: Place, name: Name, *tasks: str) -> None:
    """Raise CommandError if another file registers a task of this name, or of one of ``tasks``."""
    found = find_tasks(place.root / place.source)
    for task in tasks or (name.leaf,):
        path, line = found.get(task, (None, 0))
        if path is None or path == place.root / place.path("tasks", name):
            continue
        free = "_".join((*name.folders[-1:], name.leaf)) if name.folders else f"{name.leaf}_2"
        where = f"{path.relative_to(place.root)}:{line}"
        suggestion = "/".join((*name.folders, free))
        raise CommandError(f"The task name {task} is taken by {where}. Try:  {suggestion}")


def parse_timeout(text: str) -> timedelta:
    """Parse a time from ``90``, ``90s``, ``5m`` or ``1h``; raise CommandError for anything else.

    >>> parse_timeout("5m"), parse_timeout("90")
    (datetime.timedelta(seconds=300), datetime.timedelta(seconds=90))
    """
    found = re.fullmatch(r"0*([1-9]\d{0,6})\s*([smhd]?)", text.strip())
    if not found:
        raise CommandError(f"--timeout takes seconds, or 90s, 5m, 1h, not {text!r}")
    return timedelta(**{UNITS[found[2] or "s"]: int(found[1])})


def draft_batch(place: Place, name: Name, *, outbox: bool, test: bool = True) -> Draft:
    """Draft all files of a batch with this name, to which its tasks add ``_item`` and ``_end``.

    With ``outbox``, the page enqueues it in a transaction of the SQL database.
    """
    render = Renderer(place).render
    values = {"name": name, "base": has_base(place), "outbox": outbox}
    files = _with_page("batch", place, name, values)
    path = test_path("tasks", name)
    if test:
        files[path] = render("test_batch.py", **values)
    module = place.module("tasks", name)
    return Draft(
        files=files,
        entries=(
            *(Entry("tasks", module, task, (task, f"{task}_task")) for task in batch_tasks(name)),
            route_entry(place, name),
        ),
        next_steps=next_steps(
            path if test else "",
            f"uv run just local-all-with-worker    # http://127.0.0.1:8000/{name.slug}",
        ),
    )


def draft_of_batch(place: Place, name: Name) -> Draft:
    """Draft a batch as it was generated; raise CommandError if there is none of this name."""
    text = read_module(place, place.path("tasks", name), f"batch {name.path}")
    return draft_batch(place, name, outbox="within(session)" in text)


def batch_tasks(name: Name) -> tuple[str, str]:
    """Return the names of a batch's tasks.

    >>> batch_tasks(Name((), "statements"))
    ('statements_item', 'statements_end')
    """
    return f"{name.leaf}_item", f"{name.leaf}_end"


def has_outbox(place: Place) -> bool:
    """Return whether tune.py lists the outbox of the SQL database."""
    return OUTBOX in place.tune.read_text(encoding="utf-8", errors="replace")


def _with_page(kind: str, place: Place, name: Name, values: dict[str, Any]) -> dict[str, str]:
    """Render a module of tasks, and the page that starts them and shows their progress."""
    render, pages = Renderer(place).render, f"{place.source}/templates/{name.path}"
    return {
        place.path("tasks", name): render(f"{kind}_task.py", **values),
        place.path(ROUTES, name): render(f"{kind}_route.py", **values),
        f"{pages}.html": render("progress_page.html", **values),
        f"{pages}_run.html": render("progress_run.html", **values),
    }


def _read_options(text: str) -> TaskOptions:
    """Return the options with which a task was generated.

    For any other file the result does not matter, because it would generate another text.

    >>> _read_options("@robust_task(timeout=timedelta(hours=2), unique=True)\\nasync def a(): ...")
    ... # doctest: +NORMALIZE_WHITESPACE
    TaskOptions(cron=None, unique=True, timeout=datetime.timedelta(seconds=7200), sync=False,
        progress=False, test=True)
    """
    cron = re.search(r'@robust_cron\(\s*"([^"]+)"', text)
    limit = re.search(r"timedelta\((days|hours|minutes|seconds)=(\d{1,7})\)", text)
    try:
        return TaskOptions(
            cron=cron[1] if cron else None,
            unique="unique=True" in text,
            timeout=timedelta(**{limit[1]: int(limit[2])}) if limit else None,
            sync="async def" not in text,
            progress=f"from {PROGRESS} import" in text,
        )
    except CommandError:
        return TaskOptions()


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
    """Return the limit in the largest unit of which it is a whole number.

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
