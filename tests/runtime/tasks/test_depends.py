"""The parameter ``ctx=WorkerDepends()`` of a task, which is filled in."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from vibetuner.config import Settings
from vibetuner.context import Context, HttpClient, current_context
from vibetuner.errors import NotConfigured
from vibetuner.lifespan import make_context
from vibetuner.tasks import WorkerDepends
from vibetuner.tasks.depends import inject
from vibetuner.tasks.worker import TaskWorker

LIFESPAN = """
    from contextlib import asynccontextmanager
    from dataclasses import dataclass

    from vibetuner import VibetunerApp
    from vibetuner.context import Context
    from vibetuner.tasks.lifespan import base_lifespan


    @dataclass(frozen=True)
    class ShopContext(Context):
        till: str


    @asynccontextmanager
    async def lifespan():
        async with base_lifespan() as context:
            yield {context}


    app = VibetunerApp(worker_lifespan=lifespan)
"""


@inject
async def later(first: int, ctx: Any = WorkerDepends(), last: int = 3) -> tuple[int, Any, int]:
    """Docstrings stay."""
    return first, ctx, last


@inject
def at_once(*, ctx: Any = WorkerDepends(), **others: int) -> tuple[Any, dict[str, int]]:
    return ctx, others


@pytest.fixture
def context() -> Any:
    """Yield an object that is the current context."""
    with current_context.hold(object()):  # type: ignore[arg-type]
        yield current_context.get()


async def test_a_missing_context_is_filled_in(context: object):
    """The current context fills a task's `ctx` parameter, wherever it stands among the others."""
    assert await later(1) == (1, context, 3)
    assert await later(1, last=2) == (1, context, 2)
    assert at_once(a=1) == (context, {"a": 1})


async def test_a_context_given_by_the_caller_wins(context: object):
    """A context that is passed by position or by name is used, even if it is None."""
    assert await later(1, "mine", 2) == (1, "mine", 2)
    assert await later(1, ctx=None) == (1, None, 3)
    assert at_once(ctx="mine") == ("mine", {})


async def test_a_wrong_call_is_the_usual_type_error(context: object):
    """Wrong arguments raise the same TypeError as without the decorator."""
    with pytest.raises(TypeError, match=r"later\(\) missing 1 required positional argument"):
        await later()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many positional arguments"):
        at_once(1)  # type: ignore[misc]


def test_a_function_without_the_parameter_is_left_alone():
    """inject() returns a function without such a parameter itself, not a wrapper."""

    async def plain(a: int = 1) -> None: ...

    assert inject(plain) is plain


def test_the_function_keeps_its_name_its_docstring_and_its_parameters():
    """Logs, documentation and type checkers see the name, docstring and signature as written."""
    assert (later.__name__, later.__doc__) == ("later", "Docstrings stay.")
    assert str(inspect.signature(later).parameters["ctx"]) == "ctx: 'Any' = WorkerDepends()"
    assert inspect.iscoroutinefunction(later)
    assert not inspect.iscoroutinefunction(at_once)


@pytest.mark.parametrize(
    ("yielded", "expected"),
    [("ShopContext(**vars(context), till='open')", ["open", "1.2.3"]), ("{}", ["nothing", 0])],
    ids=["a context of one's own", "an empty one"],
)
async def test_a_task_receives_what_the_projects_lifespan_yields(
    stand_in, settings: Settings, running, yielded: str, expected: list[object]
):
    """Async, sync and cron tasks get the object that the lifespan yields, whatever it is."""
    stand_in(tune=LIFESPAN.replace("{context}", yielded))
    worker = TaskWorker(settings)

    def describe(ctx: Any) -> list[object]:
        return [ctx.till, ctx.version] if ctx else ["nothing", len(ctx)]

    @worker.task()
    async def asynchronous(ctx: Any = WorkerDepends()) -> list[object]:
        return describe(ctx)

    @worker.task()
    def synchronous(ctx: Any = WorkerDepends()) -> list[object]:
        return describe(ctx)

    @worker.cron("0 3 * * *")
    async def nightly(ctx: Any = WorkerDepends()) -> list[object]:
        return describe(ctx)

    async with running(worker):
        for task in (asynchronous, synchronous, nightly):
            result = await (await task.enqueue()).result(timeout=30)
            assert result.result == expected


async def test_without_a_worker_the_context_is_made_for_the_call(stand_in):
    """A function that is called directly gets a new context, whose client is closed after it."""
    stand_in()
    _, context, _ = await later(1)
    sync_context, _ = at_once()

    assert isinstance(context, Context)
    assert (context.project_slug, context.version) == ("corner-shop", "1.2.3")
    with pytest.raises(NotConfigured, match="HTTP client"):
        _ = context.http_client
    assert sync_context.project_slug == "corner-shop"
    assert make_context(Settings(), HttpClient()).project_name == "Corner Shop"
