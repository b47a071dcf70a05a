"""Pages from the project's Jinja templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse

from vibetuner.templates import ASSETS_PATH, get_templates, render_fragment

__all__ = ["ASSETS_PATH", "get_templates", "render", "render_fragment"]


def render(
    request: Request, name: str, context: Mapping[str, Any] | None = None, status_code: int = 200
) -> HTMLResponse:
    """Render a page from ``src/<package>/templates/``; templates also see ``request``, ``url_for``.

    Raises:
        jinja2.TemplateNotFound: there is no such template.
    """
    values = {"request": request, "url_for": request.url_for, **(context or {})}
    return HTMLResponse(get_templates().get_template(name).render(values), status_code)
