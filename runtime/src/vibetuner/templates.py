"""HTML from the project's Jinja templates."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from vibetuner.config import get_settings
from vibetuner.loader import load_project
from vibetuner.project import project_info

__all__ = ["ASSETS_PATH", "OURS", "get_templates", "htmx_scripts", "render_fragment"]

ASSETS_PATH = "/_vibetuner"

# What the runtime itself brings, as "vibetuner/…"; a project may put its own in its place.
OURS = Path(__file__).with_name("html")


def render_fragment(name: str, /, **context: Any) -> str:
    """A piece of HTML without a request, for a task to broadcast."""
    return get_templates().get_template(name).render(context)


@cache
def get_templates() -> Environment:
    """The project's templates, with autoescaping on and undefined names refused."""
    project = project_info()
    environment = Environment(
        loader=ChoiceLoader(
            [
                FileSystemLoader(project.root / "src" / project.package / "templates"),
                PrefixLoader({"vibetuner": FileSystemLoader(OURS)}),
            ]
        ),
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
    app = load_project()
    environment.filters.update(app.template_filters)
    environment.globals.update(app.template_globals)
    return environment


def htmx_scripts() -> Markup:
    """The script tags of htmx and its extension for server-sent events, served by the app."""
    return Markup(  # noqa: S704 - constants of ours
        f'<script defer src="{ASSETS_PATH}/htmx.min.js"></script>\n'
        f'<script defer src="{ASSETS_PATH}/htmx-sse.min.js"></script>'
    )
