"""Implements the commands about tasks; ``task_view`` prints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

from vibetuner.cli.console import parse_choice, prepare_env_file
from vibetuner.errors import ServiceUnavailable, TaskNotFound, suggest
from vibetuner.loader import load_project, make_importable
from vibetuner.project import project_info
from vibetuner.tasks.inspect.model import Filters, State
from vibetuner.tasks.inspect.outbox import open_outbox
from vibetuner.tasks.inspect.queue import answering, this_queue, whole_id
from vibetuner.tasks.registry import import_tasks
from vibetuner.tasks.worker import get_worker, open_queue
from vibetuner.timing import parse_moment

T = TypeVar("T")

SECONDS = 30.0
MOST_NAMES = 5


def run(
    look: Callable[..., Awaitable[T]],
    *,
    of: str | None = None,
    with_project: bool = False,
    with_letters: bool = False,
) -> T:
    """Read the queue, with the resources open that this needs.

    Args:
        look: gets the queue and, if ``of`` is given, the whole id.
        of: an id as it was typed.
        with_project: load the project, for the names and functions of its tasks.
        with_letters: open the configured databases too; if they don't answer, use Redis alone.
    """
    prepare_env_file()
    make_importable(project_info())
    if with_project:
        load_project()
        import_tasks(project_info())
    return asyncio.run(_look(look, of, with_letters))


async def _look(look: Callable[..., Awaitable[T]], of: str | None, with_letters: bool) -> T:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_queue())
        if with_letters:
            await stack.enter_async_context(open_databases())
        async with answering(SECONDS):
            queue = this_queue()
            return await (look(queue) if of is None else look(queue, await whole_id(queue, of)))


@asynccontextmanager
async def open_databases() -> AsyncIterator[None]:
    """Open the databases that are configured and answer, beside the open queue."""
    from vibetuner.tasks.dead_letters import open_dead_letters

    async with AsyncExitStack() as stack:
        with suppress(ServiceUnavailable):  # show what Redis knows
            await stack.enter_async_context(open_dead_letters())
        await stack.enter_async_context(open_outbox())
        yield


def parse_filters(
    states: list[str], task: str | None, since: str | None, until: str | None
) -> Filters:
    """Parse the filters of the command line; raise CommandError for an unknown state."""
    now = datetime.now(UTC)
    return Filters(
        states=frozenset(parse_choice(State, state, "--state") for state in states),
        name=task,
        since=parse_moment(since, now, "--since") if since else None,
        until=parse_moment(until, now, "--until") if until else None,
    )


def check_task_name(name: str) -> None:
    """Raise if the project has no task of this name.

    Raises:
        TaskNotFound: there is none; the message suggests a similar name.
    """
    load_project()
    import_tasks(project_info())
    names = sorted(get_worker().registry)
    if name in names:
        return
    known = f"There are: {', '.join(names[:MOST_NAMES])}" if names else "The project has no tasks"
    raise TaskNotFound(f"The project has no task {name}. {suggest(name, names, known)}")
