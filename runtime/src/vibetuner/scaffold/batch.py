"""A batch: a task for each item and one for the end, a page that starts it, and a test."""

from __future__ import annotations

from vibetuner.scaffold.draft import Draft, Place, read_module, test_path
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.rendering import Renderer
from vibetuner.scaffold.route import ROUTES, has_base, route_entry

OUTBOX = "vibetuner.tasks.outbox.sql"


def draft_batch(place: Place, name: Name, *, outbox: bool, test: bool = True) -> Draft:
    """Draft all files of a batch with this name.

    Args:
        place: the project.
        name: the name of the module and the page; the two tasks add ``_item`` and ``_end`` to it.
        outbox: whether the page enqueues the batch in a transaction of the SQL database.
        test: whether to write a test.
    """
    render = Renderer(place).render
    values = {"name": name, "base": has_base(place), "outbox": outbox}
    pages = f"{place.source}/templates/{name.path}"
    files = {
        place.path("tasks", name): render("batch_task.py", **values),
        place.path(ROUTES, name): render("batch_route.py", **values),
        f"{pages}.html": render("progress_page.html", **values),
        f"{pages}_run.html": render("progress_run.html", **values),
    }
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
        next_steps=(
            f"uv run pytest {path}" if test else "uv run just test",
            f"uv run just local-all-with-worker    # http://127.0.0.1:8000/{name.slug}",
            "uv run just check",
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
