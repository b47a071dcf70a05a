"""Is this process alive, and can it do its work?"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from vibetuner.config import get_settings
from vibetuner.embedded import running_services
from vibetuner.loader import load_project
from vibetuner.project import project_info
from vibetuner.resources.probe import probe, probe_tables

__all__ = ["router"]

logger = logging.getLogger(__name__)

router = APIRouter()


@router.get("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Answers as long as the process can answer."""
    project = project_info()
    return {"status": "ok", "project": project.slug, "version": project.version}


@router.get("/health/ready", include_in_schema=False)
async def ready() -> JSONResponse:
    """Answer 200 when every configured system answers and the tables fit, else 503 with reasons.

    Everybody may ask, so in production the reason names no address; the log has it.
    """
    settings = get_settings()
    probes = await probe(running_services(settings))
    if all(one.problem == "" for one in probes if one.setting == "database_url"):
        probes += await probe_tables(settings, load_project().sql_models)
    is_ready = not any(one.problem for one in probes)
    resources: dict[str, Any] = {}
    for one in probes:
        resources[one.name] = {"ok": not one.problem, "ms": round(one.milliseconds, 1)}
        if one.problem:
            logger.warning("not ready: %s", one.problem)
            open_words = settings.environment != "production"
            reason = one.problem if open_words else f"{one.name}: see the log"
            resources[one.name]["reason"] = reason
    content = {"status": "ok" if is_ready else "unavailable", "resources": resources}
    headers = {"Cache-Control": "no-store"}
    return JSONResponse(content, 200 if is_ready else 503, headers)
