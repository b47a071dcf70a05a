"""HTML from the project's Jinja templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vibetuner.config import get_settings
from vibetuner.project import project_info

__all__ = ["ASSETS_PATH", "get_templates", "render", "render_fragment"]

ASSETS_PATH = "/_vibetuner"


def render(
    request: Request, name: str, context: Mapping[str, Any] | None = None, status_code: int = 200
) -> HTMLResponse:
    """A page from ``src/<package>/templates/``; the template also sees ``request``, ``url_for``.

    Raises:
        jinja2.TemplateNotFound: there is no such template.
    """
    values = {"request": request, "url_for": request.url_for, **(context or {})}
    return HTMLResponse(get_templates().get_template(name).render(values), status_code)


def render_fragment(name: str, /, **context: Any) -> str:
    """A piece of HTML without a request, for a task to broadcast."""
    return get_templates().get_template(name).render(context)


@cache
def get_templates() -> Environment:
    """The project's templates, with autoescaping on and undefined names refused."""
    project = project_info()
    environment = Environment(
        loader=FileSystemLoader(project.root / "src" / project.package / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=get_settings().debug,
    )
    environment.globals.update(
        project=project,
        settings_debug=get_settings().debug,
        htmx_scripts=htmx_scripts,
        static=lambda path: f"/static/{path.lstrip('/')}?v={project.version}",
    )
    return environment


def htmx_scripts() -> Markup:
    """The script tags of htmx and its extension for server-sent events, served by the app."""
    return Markup(  # noqa: S704 - constants of ours
        f'<script defer src="{ASSETS_PATH}/htmx.min.js"></script>\n'
        f'<script defer src="{ASSETS_PATH}/htmx-sse.min.js"></script>'
    )
