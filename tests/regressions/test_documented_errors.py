"""Every public function raises only the errors that its docstring names."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vibetuner import config, errors, sse
from vibetuner.config import Settings, get_settings, using_settings
from vibetuner.frontend import app, lifespan, templates
from vibetuner.loader import load_project
from vibetuner.redis import client, rights
from vibetuner.resources import mongo, sql
from vibetuner.services import email
from vibetuner.tasks import dead_letters, progress, robust, worker
from vibetuner.tasks import lifespan as worker_lifespan
from vibetuner.tasks.worker import TaskWorker, using_worker

NOWHERE = {
    "redis_url": "redis://127.0.0.1:1",
    "mongodb_url": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=300",
    "database_url": "postgresql+asyncpg://127.0.0.1:1/none",
    "smtp_url": "smtp://127.0.0.1:1",
    "mail_from": "team@example.com",
}
# These are documented once, in vibetuner.errors, and not in each docstring.
EVERYWHERE = {
    "no project": {"ProjectError", "NotConfigured"},
    "wrong setting": {"SettingsError", "NotConfigured"},
}
# Decorators and functions that connect to no server.
EXEMPT = {
    "sse_endpoint", "Database", "unreachable", "choose_mailer", "open_resource", "create_schema",
    "open_database", "open_mongo", "open_sql", "table_of",
}  # fmt: skip
SENTENCE = re.compile(r"[Rr]aises(?:, when [^:]*:)? ((?:[A-Z][a-z]\w+(?:, | or | and )?)+)")


@dataclass(frozen=True)
class Call:
    """A public function, and a valid call of it, which fails only because of the situation."""

    function: Callable[..., Any]
    run: Callable[[], Any]

    @property
    def name(self) -> str:
        """Return the function's module and name, which identify the test."""
        return f"{self.function.__module__}.{self.function.__name__}"

    @property
    def documented(self) -> set[str]:
        """Return the names of the errors that the docstring names."""
        text = inspect.getdoc(self.function) or ""
        _, _, section = text.partition("Raises:\n")
        found = re.findall(r"(?m)^    ([A-Z][\w, ]+):", section) + SENTENCE.findall(text)
        return set(re.findall(r"\b[A-Z][a-z]\w+", " ".join(found)))


def enter(manager: Callable[[], AbstractAsyncContextManager[Any]]) -> Callable[[], Awaitable[None]]:
    """Return a function that opens and closes the context manager."""

    async def run() -> None:
        async with manager():
            pass

    return run


def first(items: Callable[[], AsyncIterator[Any]]) -> Callable[[], Awaitable[None]]:
    """Return a function that asks for one item."""

    async def run() -> None:
        async for _ in items():
            break

    return run


def check_mongo() -> Awaitable[None]:
    """Check MongoDB, which takes up to five seconds without a server."""
    return mongo.check(get_settings())


CALLS = [
    Call(config.get_settings, config.get_settings),
    Call(config.project_info, config.project_info),
    Call(config.project_root, config.project_root),
    Call(config.data_dir, config.data_dir),
    Call(sse.broadcast, lambda: sse.broadcast("news", "hello")),
    Call(templates.render_fragment, lambda: templates.render_fragment("vibetuner/progress.html")),
    Call(templates.get_templates, templates.get_templates),
    Call(app.create_app, app.create_app),
    Call(lifespan.base_lifespan, enter(lifespan.base_lifespan)),
    Call(lifespan.frontend_lifespan, enter(lifespan.frontend_lifespan)),
    Call(worker_lifespan.base_lifespan, enter(worker_lifespan.base_lifespan)),
    Call(worker_lifespan.worker_lifespan, enter(worker_lifespan.worker_lifespan)),
    Call(client.check, lambda: client.check(get_settings())),
    Call(client.open_redis, enter(lambda: client.open_redis(get_settings()))),
    Call(mongo.check, check_mongo),
    Call(sql.check, lambda: sql.check(get_settings())),
    Call(sql.open_session, enter(sql.open_session)),
    Call(sql.get_session, first(sql.get_session)),
    Call(
        email.send_email,
        lambda: email.send_email(to_email="a@example.com", subject="x", html_content="x"),
    ),
    Call(dead_letters.count, dead_letters.count),
    Call(dead_letters.discard, lambda: dead_letters.discard("x")),
    Call(dead_letters.get, lambda: dead_letters.get("x")),
    Call(dead_letters.groups, dead_letters.groups),
    Call(dead_letters.list_letters, dead_letters.list_letters),
    Call(dead_letters.retry, lambda: dead_letters.retry("x")),
    Call(dead_letters.open_dead_letters, enter(dead_letters.open_dead_letters)),
    Call(progress.watch_progress, first(lambda: progress.watch_progress("x"))),
    Call(progress.render_bar, lambda: progress.render_bar(progress.ProgressState(task_id="x"))),
    Call(worker.get_worker, worker.get_worker),
    Call(worker.open_queue, enter(worker.open_queue)),
    Call(robust.robust_task, lambda: robust.robust_task(max_retries=0)),
    Call(robust.robust_cron, lambda: robust.robust_cron("* * * * *", max_retries=0)),
]


@pytest.fixture(params=["nothing configured", "nothing answers", "no project", "wrong setting"])
def situation(
    request: pytest.FixtureRequest,
    fresh: None,
    stand_in: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Set up a project in which something is missing or wrong, and yield the situation's name."""
    match request.param:
        case "no project":
            monkeypatch.chdir(tmp_path)
            yield request.param
        case "wrong setting":
            stand_in()
            monkeypatch.setenv("WORKER_CONCURRENCY", "many")
            yield request.param
        case "nothing answers":
            stand_in()
            settings = Settings(**NOWHERE)
            with using_settings(settings), using_worker(TaskWorker(settings)):
                yield request.param
        case _:
            stand_in()
            settings = Settings()
            with using_settings(settings), using_worker(TaskWorker(settings)):
                yield request.param


# asyncpg leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, marks=pytest.mark.slow if call.run is check_mongo else ())
        for call in CALLS
    ],
    ids=lambda call: call.name,
)
async def test_the_docstring_names_each_error_that_is_raised(situation: str, call: Call):
    """A public function raises only errors that its docstring names, with a message of one line."""
    load_project.cache_clear()
    error: Exception | None = None
    try:
        async with asyncio.timeout(40):
            outcome = call.run()
            if inspect.isawaitable(outcome):
                await outcome
    except Exception as caught:  # noqa: BLE001 - the test inspects it
        error = caught
    if error is None:
        return
    assert not isinstance(error, TimeoutError), "no end in 40 s"
    names = {kind.__name__ for kind in type(error).__mro__}
    allowed = call.documented | EVERYWHERE.get(situation, set())
    assert names & allowed, f"{situation}: {type(error).__name__}: {error}"
    assert "\n" not in str(error)


@pytest.mark.parametrize("call", [c for c in CALLS if c.documented], ids=lambda c: c.name)
def test_a_documented_error_exists(call: Call):
    """Each error that a docstring names can be imported or is built in."""
    known = {*errors.__all__, *vars(rights), *vars(builtins)}
    assert call.documented <= known


def test_every_public_function_of_these_modules_is_called():
    """Each public function of these modules has a line in CALLS or in EXEMPT."""
    modules = (sse, dead_letters, robust, mongo, sql, email)
    called = {call.function.__name__ for call in CALLS} | EXEMPT
    for module in modules:
        public = {n for n in module.__all__ if inspect.isfunction(getattr(module, n))}
        assert public <= called, f"{module.__name__}: {public - called}"
