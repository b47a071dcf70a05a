"""The web app: the project's routes, templates and static files, and htmx beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from vibetuner.config import get_settings
from vibetuner.errors import ProjectError
from vibetuner.frontend import health
from vibetuner.frontend.debug import unlock
from vibetuner.frontend.debug.dashboard import make_dashboard
from vibetuner.frontend.debug.gate import Gate
from vibetuner.frontend.lifespan import frontend_lifespan
from vibetuner.frontend.templates import ASSETS_PATH
from vibetuner.loader import load_project
from vibetuner.project import ProjectInfo, project_info

__all__ = ["assets_folder", "create_app"]


def create_app() -> FastAPI:
    """The ASGI app of the project that the current folder lies in.

    Raises:
        ProjectError: there is no project, or its tune.py is broken.
    """
    project, settings = project_info(), get_settings()
    app = FastAPI(
        title=project.name,
        version=project.version,
        description=project.description,
        debug=settings.debug,
        max_body_size=settings.max_body,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Gate, settings=get_settings)
    app.include_router(health.router)
    app.include_router(unlock.make_router())
    app.include_router(make_dashboard())
    for router in load_project().routes:
        app.include_router(router)
    _mount_files(app, project)
    return app


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with frontend_lifespan():
        yield


def _mount_files(app: FastAPI, project: ProjectInfo) -> None:
    app.mount(ASSETS_PATH, StaticFiles(directory=assets_folder()), name="vibetuner")
    static = project.root / "src" / project.package / "static"
    if static.is_dir():
        app.mount("/static", StaticFiles(directory=static), name="static")


def assets_folder() -> Path:
    """Where htmx lies; raises ProjectError when the runtime was not built as a wheel."""
    try:
        return Path(str(files("vibetuner_htmx").joinpath("htmx.min.js"))).parent
    except ModuleNotFoundError:
        raise ProjectError(
            "htmx is not installed beside the runtime: it was not built as a wheel. "
            "Run:  uv sync --reinstall-package vibetuner-runtime"
        ) from None
