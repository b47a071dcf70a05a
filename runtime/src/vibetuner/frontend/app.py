"""The web app: the project's routes, templates and static files, and htmx."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from vibetuner.config import get_settings
from vibetuner.errors import ProjectError
from vibetuner.frontend import health
from vibetuner.frontend.debug import unlock
from vibetuner.frontend.debug.dashboard import make_dashboard
from vibetuner.frontend.debug.gate import Gate
from vibetuner.frontend.error_pages import ErrorHook, error_handlers, value_handlers
from vibetuner.frontend.guards import Guards, guard_headers
from vibetuner.frontend.lifespan import frontend_lifespan
from vibetuner.frontend.templates import ASSETS_PATH
from vibetuner.loader import load_project
from vibetuner.project import ProjectInfo, project_info

__all__ = ["create_app"]

ICONS = ("favicon.ico", "icon.svg")


def create_app() -> FastAPI:
    """Return the ASGI app of the project that the current folder is in.

    Raises:
        ProjectError: there is no project, or its tune.py is broken.
    """
    project, settings, declared = project_info(), get_settings(), load_project()
    shows_schema = settings.environment != "production"
    if declared.openapi is not None:
        shows_schema = declared.openapi
    hook = None if declared.on_error is None else ErrorHook(declared.on_error)
    outages = health.outage_handlers(settings, hook.call if hook else None)
    handlers: dict[Any, Any] = {
        **error_handlers(guard_headers(declared.headers)),
        **value_handlers(settings),
        **outages,
        **declared.exception_handlers,
    }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(frontend_lifespan())
            if hook is not None:
                await stack.enter_async_context(hook.open())
            yield

    app = FastAPI(
        title=project.name,
        version=project.version,
        description=project.description,
        debug=settings.debug,
        max_body_size=settings.max_body,
        lifespan=lifespan,
        openapi_url="/openapi.json" if shows_schema else None,
        docs_url=None,
        redoc_url=None,
        middleware=[
            *([Middleware(hook.around)] if hook else []),
            Middleware(Guards, declared.headers, declared.trusted_origins),
            Middleware(Gate, settings=get_settings),
            *declared.middleware,
        ],
        exception_handlers=handlers,
    )
    app.include_router(health.router)
    app.include_router(unlock.make_router())
    # FastAPI would derive the parameters of an included router's routes again for each app, which
    # is most of the time that a test's app takes.
    app.router.routes.extend(make_dashboard().routes)
    for router in declared.routes:
        app.include_router(router)
    for path, mounted in declared.mounts.items():
        app.mount(path, mounted)
    _mount_files(app, project)
    return app


def _mount_files(app: FastAPI, project: ProjectInfo) -> None:
    app.mount(ASSETS_PATH, assets(), name="vibetuner")
    static = project.root / "src" / project.package / "static"
    if static.is_dir():
        app.mount("/static", StaticFiles(directory=static), name="static")

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        """Answer browsers, which request it for every page."""
        icons = (static / name for name in ICONS)
        found = next((icon for icon in icons if icon.is_file()), None)
        return Response(status_code=204) if found is None else FileResponse(found)


def assets() -> StaticFiles:
    """Return htmx and our script for it; raise ProjectError if the runtime is not from a wheel."""
    try:
        htmx = Path(str(files("vibetuner_htmx").joinpath("htmx.min.js"))).parent
        return StaticFiles(directory=htmx, packages=[("vibetuner.frontend", "assets")])
    except ModuleNotFoundError:
        raise ProjectError(
            "htmx is not installed beside the runtime: it was not built as a wheel. "
            "Run:  uv sync --reinstall-package vibetuner-runtime"
        ) from None
