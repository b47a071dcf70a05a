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

ASSETS_PATH = "/_vibetuner"

# The runtime's own templates, as "vibetuner/…"; a project may replace them.
OURS = Path(__file__).with_name("html")


def render_fragment(name: str, /, **context: Any) -> str:
    """Render a template without a request, for a task to broadcast."""
    return get_templates().get_template(name).render(context)


@cache
def get_templates() -> Environment:
    """Return the project's template environment: autoescaping on, undefined names refused."""
    project = project_info()
    folder = project.root / "src" / project.package / "templates"
    environment = make_environment(folder, auto_reload=get_settings().debug)
    environment.globals.update(
        project=project,
        settings_debug=get_settings().debug,
        static=lambda path: f"/static/{path.lstrip('/')}?v={project.version}",
    )
    app = load_project()
    environment.filters.update(app.template_filters)
    environment.globals.update(app.template_globals)
    return environment


def make_environment(folder: Path, *, auto_reload: bool) -> Environment:
    """Return an environment for a folder and for our own templates, as ``vibetuner/...``."""
    environment = Environment(
        loader=ChoiceLoader(
            [FileSystemLoader(folder), PrefixLoader({"vibetuner": FileSystemLoader(OURS)})]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=auto_reload,
    )
    environment.globals["htmx_scripts"] = htmx_scripts
    return environment


def htmx_scripts() -> Markup:
    """Return the script tags of htmx, its extension for server-sent events, and our additions."""
    names = ("htmx.min.js", "htmx-sse.min.js", "htmx-sse-resume.js", "submit-once.js")
    tags = (f'<script defer src="{ASSETS_PATH}/{name}"></script>' for name in names)
    return Markup("\n".join(tags))  # noqa: S704 - constants of ours
