"""The health of this process, and its responses during an outage."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from coredis.exceptions import RedisError
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ExceptionHandler, Scope

from vibetuner.config import Settings, get_settings
from vibetuner.embedded import running_services
from vibetuner.errors import (
    MailError,
    MailRefused,
    NotConfigured,
    ServiceUnavailable,
    VibetunerError,
    first_line,
)
from vibetuner.frontend.error_pages import refused, with_page
from vibetuner.loader import load_project
from vibetuner.logs import log_sparingly
from vibetuner.project import data_dir, project_info
from vibetuner.resources.table import RESOURCES, Probe, find_unset, probe, probe_tables

logger = logging.getLogger(__name__)

router = APIRouter()

MOST_LINES = 10
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
PROBE_BYTES = 64 * 1024


@router.get("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Answer as long as the process can."""
    project = project_info()
    return {"status": "ok", "project": project.slug, "version": project.version}


@router.get("/health/ready", include_in_schema=False)
async def ready() -> JSONResponse:
    """Answer 200 if all systems answer, the tables match and the disk is writable; else 503.

    A database that models need, and whose setting is empty, does not answer.

    Everybody may ask, so in production the reason contains no address; the log has it.
    """
    settings = get_settings()
    probes, full = await asyncio.gather(_probes(settings), asyncio.to_thread(_disk_problem))
    resources: dict[str, Any] = {
        one.name: {"ok": not one.problem, "ms": round(one.milliseconds, 1)} for one in probes
    }
    problems = {one.name: one.problem for one in probes if one.problem}
    if full:
        resources["disk"], problems["disk"] = {"ok": False}, full
    for name, problem in problems.items():
        logger.warning("not ready: %s", problem)
        open_words = settings.environment != "production"
        resources[name]["reason"] = problem if open_words else f"{name}: see the log"
    content = {"status": "unavailable" if problems else "ok", "resources": resources}
    return JSONResponse(content, 503 if problems else 200, {"Cache-Control": "no-store"})


async def _probes(settings: Settings) -> list[Probe]:
    project, probes = load_project(), await probe(running_services(settings))
    if all(one.problem == "" for one in probes if one.setting == "database_url"):
        probes += await probe_tables(settings, project.sql_models)
    return [*probes, *find_unset(settings, project)]


def _disk_problem() -> str:
    """Return the reason why uploads or the project's data can't be written; empty if there is none.

    A folder that is read-only on purpose is not a problem: then the process doesn't need it.
    """
    for find in (data_dir, tempfile.gettempdir):
        folder = None
        try:
            folder = find()
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
        except OSError as error:
            if error.errno in FULL:
                return f"{folder or error.filename} takes no data: {error.strerror}. Make room"
    return ""


def outage_handlers(
    settings: Settings, on_outage: Callable[[BaseException, Scope], None] | None = None
) -> Mapping[int | type[Exception], ExceptionHandler]:
    """Return handlers for the errors of requests when an outside system or the disk fails.

    Args:
        on_outage: called with the error and the request's scope before each response.
    """
    log_sparingly(logger, MOST_LINES)
    kinds: list[type[Exception]] = [ServiceUnavailable, NotConfigured, MailError]
    kinds += (RedisError, TimeoutError, HTTPException)
    for resource in RESOURCES:
        if resource.enabled(settings):
            kinds += resource.outages

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            cause = error.__cause__
            if not (isinstance(cause, OSError) and cause.errno in FULL):
                return await refused(request, error)
            error = cause  # FastAPI makes it a 400: the body could not be read
        if isinstance(error, MailRefused) or _is_mistake(error):
            raise error  # for good: no later request will fare better
        if on_outage is not None:
            on_outage(error, request.scope)
        return await _answer_outage(request, error)

    return dict.fromkeys(kinds, answer)


def _is_mistake(error: Exception) -> bool:
    """Return whether SQLite refuses a statement: a mistake in it, or a table or column missing.

    The driver raises the same error for a file that can't be opened, is full or stays locked.
    """
    refusal = getattr(error, "orig", None)
    return getattr(refusal, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


async def _answer_outage(request: Request, error: Exception) -> Response:
    problem = str(error) if isinstance(error, VibetunerError) else first_line(error)
    logger.warning("%s %s: %s", request.method, request.url.path, problem)
    if get_settings().environment == "production":
        problem = "A server that this request needs does not answer. Try again soon"
    wait = error.retry_after if isinstance(error, MailError) else None
    headers = {"Retry-After": f"{wait.total_seconds():.0f}"} if wait else None
    return with_page(request, JSONResponse({"detail": problem}, 503, headers), problem)
