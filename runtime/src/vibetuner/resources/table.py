"""The resources, each with the setting that enables it, and checks whether they answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from vibetuner.app import VibetunerApp
from vibetuner.config import EMBEDDED, Settings
from vibetuner.errors import (
    ServiceUnavailable,
    VibetunerError,
    cure_of_scheme,
    explain_unusable,
    first_few,
)
from vibetuner.project import project_info
from vibetuner.redis import REDIS_MISSING
from vibetuner.resources.slots import MONGO_MISSING, SQL_MISSING

if TYPE_CHECKING:
    from sqlmodel import SQLModel

PROBE_SECONDS = 3.0

Opener = Callable[[Settings, VibetunerApp], AbstractAsyncContextManager[Any]]
Check = Callable[[Settings], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Resource:
    """An outside system that a lifespan opens when its setting is not empty.

    The module is named, not imported, so that a process loads only the drivers that it uses.
    """

    name: str
    setting: str
    module: str

    def enabled(self, settings: Settings) -> bool:
        """Return whether its setting holds a value."""
        return bool(getattr(settings, self.setting))

    def open(self, settings: Settings, project: VibetunerApp) -> AbstractAsyncContextManager[Any]:
        """Open the resource for the length of the block."""
        return cast("Opener", import_module(self.module).open_resource)(settings, project)

    @property
    def outages(self) -> tuple[type[Exception], ...]:
        """Return the errors that its driver raises if it does not answer."""
        return cast("tuple[type[Exception], ...]", import_module(self.module).OUTAGES)

    def load(self) -> None:
        """Import its driver."""
        import_module(self.module)

    async def check(self, settings: Settings) -> None:
        """Make one round trip; raise ServiceUnavailable if there is no answer."""
        if getattr(settings, self.setting) == EMBEDDED:  # nothing has started it
            environment, name = settings.environment, self.setting.upper()
            raise ServiceUnavailable(
                explain_unusable(
                    self.name, name, EMBEDDED, "it is not running", environment=environment
                )
            )
        await cast("Check", import_module(self.module).check)(settings)


RESOURCES = (
    Resource("Redis", "redis_url", "vibetuner.redis.client"),
    Resource("MongoDB", "mongodb_url", "vibetuner.resources.mongo"),
    Resource("SQL database", "database_url", "vibetuner.resources.sql"),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of checking one system; ``problem`` is empty if it answered."""

    name: str
    setting: str
    milliseconds: float
    problem: str = ""


async def probe(settings: Settings, seconds: float = PROBE_SECONDS) -> list[Probe]:
    """Make one round trip to each configured system; return the results in the table's order.

    ``settings`` have URLs of running servers in place of ``embedded``.
    """
    configured = [resource for resource in RESOURCES if resource.enabled(settings)]
    for resource in configured:
        resource.load()  # imports the driver, whose time must not count against the system
    return await asyncio.gather(
        *(
            probe_one(
                one.name, one.setting, one.check(settings), seconds,
                cure_of_scheme(getattr(settings, one.setting), "no answer", one.setting.upper())
                or f"Start it, or correct {one.setting.upper()}",
            )
            for one in configured
        )
    )  # fmt: skip


def find_unset(settings: Settings, project: VibetunerApp) -> list[Probe]:
    """Return the systems that the tasks and models of tune.py need, and whose setting is empty.

    A test has the systems whose fixtures it requests.
    """
    if settings.environment == "test":
        return []
    needed = (
        (project.tasks, settings.redis_url, Probe("Redis", "", 0, REDIS_MISSING)),
        (project.models, settings.mongodb_url, Probe("MongoDB", "", 0, MONGO_MISSING)),
        (project.sql_models, settings.database_url, Probe("SQL database", "", 0, SQL_MISSING)),
    )
    return [unset for users, url, unset in needed if users and not url]


async def probe_tables(
    settings: Settings, models: Sequence[type[SQLModel]], seconds: float = PROBE_SECONDS
) -> list[Probe]:
    """Compare the SQL tables with the models; return nothing if there is nothing to compare."""
    if not (settings.database_url and models):
        return []
    schema = import_module("vibetuner.resources.schema")  # loads the driver
    differences: list[str] = []

    async def compare() -> None:
        differences.extend(await schema.find_differences(settings, models))

    found = await probe_one("SQL tables", "", compare(), seconds, "Look at the database's load")
    if not differences:
        return [found]
    problem = await explain_differences(settings, differences)
    return [replace(found, problem=f"SQL tables differ from the models: {problem}")]


async def explain_differences(settings: Settings, differences: Sequence[str]) -> str:
    """Return differences between tables and models in one line, with the cure."""
    schema, project = import_module("vibetuner.resources.schema"), project_info()
    shown, cure = first_few(differences), "Run:  vibetuner db upgrade"
    if schema.has_migrations(project):
        migrations = import_module("vibetuner.resources.migrations")  # loads Alembic
        try:
            waits = bool(await migrations.Migrations(project).pending(settings))
        except VibetunerError as error:  # the database is at a revision whose file is missing
            return f"{shown}. {error}"
    else:  # an upgrade creates missing tables, and changes none
        waits = all(text.startswith("table ") for text in differences)
    if not waits:
        cure = "vibetuner db revision 'what changed'"
        if settings.environment == "production":
            cure = f"Write the migration in development, and deploy it:  {cure}"
        else:
            cure = f"Run:  {cure}"
    return f"{shown}. {cure}"


async def probe_one(
    name: str, setting: str, check: Awaitable[None], seconds: float | None = None, cure: str = ""
) -> Probe:
    """Await the check of one system; without ``seconds``, it limits its time itself."""
    began, problem = time.perf_counter(), ""
    try:
        async with asyncio.timeout(seconds):
            await check
    except TimeoutError:
        problem = f"{name}: no answer within {seconds:g} s. {cure}"
    except VibetunerError as error:
        problem = str(error)
    return Probe(name, setting, (time.perf_counter() - began) * 1000, problem)
