"""Checks of the project, and of the configured services, which together have three seconds."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from importlib import import_module

from vibetuner.cli.checks import Finding, of_message, uncapitalized
from vibetuner.cli.checks.redis import check_redis
from vibetuner.config import EMBEDDED, Settings
from vibetuner.embedded import running_services
from vibetuner.errors import (
    CommandError,
    VibetunerError,
    counted,
    cure_of,
    first_few,
    first_line,
    mask_secrets,
)
from vibetuner.loader import load_project
from vibetuner.project import ProjectInfo
from vibetuner.redis.client import innermost
from vibetuner.redis.url import parse_url
from vibetuner.resources import table
from vibetuner.state import for_requests
from vibetuner.tasks.registry import find_problems, find_warnings, import_tasks
from vibetuner.tasks.worker import get_worker


def check_tune(project: ProjectInfo) -> list[Finding]:
    """Check that tune.py loads, and lists exactly the tasks that are decorated."""
    try:
        app = load_project()
        import_tasks(project)
    except VibetunerError as error:
        return [of_message("project", mask_secrets(str(error)))]
    except Exception as error:  # noqa: BLE001 - a task of the same name twice, say
        text = mask_secrets(f"{type(error).__name__}: {error}")
        return [Finding("error", "project", text, "correct it")]
    worker = get_worker()
    problems = find_problems(app, worker)
    if problems:
        return [of_message("tasks", problem) for problem in problems]
    tasks = counted(len(worker.registry), "task")
    return [
        Finding("ok", "project", f"{project.name}: {tasks} in tune.py"),
        *(Finding("warning", "tasks", *text.split("; ")) for text in find_warnings(worker)),
    ]


def load_drivers(settings: Settings) -> None:
    """Import the drivers first, so that their time does not count against the services."""
    for resource in table.RESOURCES:
        if resource.enabled(settings):
            resource.load()
    if settings.smtp_url:
        import_module("vibetuner.services.email")


async def check_services(settings: Settings, project: ProjectInfo) -> list[Finding]:
    """Check that each service answers, and that Redis keeps tasks safe."""
    live = running_services(settings)
    stopped = [name for name in ("redis_url", "mongodb_url") if getattr(live, name) == EMBEDDED]
    findings = [
        Finding("note", name, "embedded, and not running", "any command that needs it starts it")
        for name in (one.removesuffix("_url") for one in stopped)
    ]
    asked = live.model_copy(
        update={"database_answer_timeout": table.PROBE_SECONDS} | dict.fromkeys(stopped)
    )
    with for_requests():  # else a connection that is being made outlasts its check
        probes, of_redis, of_mail = await asyncio.gather(
            table.probe(asked), _look_at_redis(asked, project), _look_at_mail(asked)
        )
    for one in probes:
        findings.append(_answered(one))
        if one.setting == "redis_url" and not one.problem:
            findings += of_redis
        if one.setting == "mongodb_url" and not one.problem:
            findings += await _look_at_letters(asked)
    return findings + of_mail


def check_unset(settings: Settings) -> list[Finding]:
    """Report systems that the tasks and models of tune.py need, and whose setting is empty."""
    return [_answered(one) for one in table.find_unset(settings, load_project())]


async def check_tables(settings: Settings, project: ProjectInfo) -> list[Finding]:
    """Compare the SQL tables with the models, and the database with the project's migrations."""
    probes = await table.probe_tables(settings, load_project().sql_models)
    if not probes:
        return []
    from vibetuner.resources.schema import has_migrations

    pending = []
    if has_migrations(project):
        from vibetuner.resources.migrations import Migrations

        try:
            pending = await Migrations(project).pending(settings)
        except CommandError as error:  # the database is at a revision whose file is missing
            return [of_message("SQL tables", str(error))]
    if pending:
        text = f"the migration {first_few(pending, 1)} has not run"
        return [Finding("error", "SQL tables", text, "vibetuner db upgrade")]
    if probes[0].problem:
        return [of_message("SQL tables", probes[0].problem)]
    tables = Finding("ok", "SQL tables", "as the models have them")
    from vibetuner.resources.sql import open_sql

    async with open_sql(settings) as engine:
        if engine.dialect.name == "postgresql":
            async with engine.connect() as connection:
                state = await connection.exec_driver_sql("SHOW transaction_read_only")
                if state.scalar() == "on":
                    cure = "point DATABASE_URL at the primary"
                    return [Finding("error", "SQL tables", "on a read-only server", cure)]
        return [tables, *await _read_outbox()]


async def _read_outbox() -> list[Finding]:
    """Report tasks that were committed and that no worker enqueues."""
    from vibetuner.tasks.inspect.stats import read_outbox

    outbox = await read_outbox()
    if outbox is None or not outbox.waiting:
        return []
    if outbox.is_stuck:
        return [Finding("warning", "outbox", outbox.text, outbox.cure)]
    return [Finding("ok", "outbox", outbox.text)]


def _answered(one: table.Probe) -> Finding:
    if one.problem:
        return of_message(one.name, one.problem)
    return Finding("ok", one.name, f"answers in {one.milliseconds:.0f} ms")


async def _look_at_letters(settings: Settings) -> list[Finding]:
    """Report unreadable dead letters in MongoDB, and rows that wait in its outbox for too long."""
    from vibetuner.resources.mongo import open_database
    from vibetuner.tasks.letters.mongo import count_unreadable

    try:
        async with asyncio.timeout(table.PROBE_SECONDS), open_database(settings) as database:
            number = await count_unreadable(database)
            outbox = await _read_outbox()
    except Exception as error:  # noqa: BLE001 - as below
        text = f"its dead letters can't be read: {first_line(innermost(error))}"
        return [Finding("warning", "MongoDB", text, "check its load, and the network")]
    if not number:
        return outbox
    text = (
        f"{number} of the newest dead letters in it can't be read: damaged, or of a newer version"
    )
    cure = "find out what else writes to the collection dead_letters"
    return [*outbox, Finding("warning", "records", text, cure)]


async def _look_at_mail(settings: Settings) -> list[Finding]:
    """Log in to the mail server, and send nothing."""
    if not settings.smtp_url:
        return []
    from vibetuner.services.email import check_mail

    found = await table.probe_one("mail", "", check_mail(settings, table.PROBE_SECONDS))
    return [_answered(replace(found, problem=found.problem.removeprefix("Email: ")))]


async def _look_at_redis(settings: Settings, project: ProjectInfo) -> list[Finding]:
    if not settings.redis_url:
        return []
    try:
        async with asyncio.timeout(table.PROBE_SECONDS):
            return await check_redis(settings, project)
    except TimeoutError:
        text = f"its state can't be read within {table.PROBE_SECONDS:g} s: it is busy, or far away"
        return [Finding("warning", "Redis", text, "check its load, and the network")]
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are reported all the same
        reason = first_line(innermost(error))
        refused = re.search("permissions to run the '([^']+)' command", reason)
        user = parse_url(settings.redis_url, settings.redis_key_prefix).username or "default"
        usual = f"allow it:  ACL SETUSER {user} +{refused[1]}" if refused else "try again"
        cure = uncapitalized(cure_of(reason, "REDIS_URL", usual))
        return [Finding("warning", "Redis", f"its state can't be read: {reason}", cure)]
