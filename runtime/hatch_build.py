"""Puts htmx into the wheel: pages work offline, and no copy of it lives in the repository."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# django-htmx is only a build requirement: it is the best-kept PyPI package that carries both files.
ASSETS = {
    "htmx-2.min.js": "vibetuner_htmx/htmx.min.js",
    "ext/hx-sse-2.min.js": "vibetuner_htmx/htmx-sse.min.js",
}


class HtmxHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        spec = find_spec("django_htmx")
        if spec is None or spec.origin is None:
            raise RuntimeError("django-htmx is missing from the build environment")
        static = Path(spec.origin).parent / "static" / "django_htmx"
        files = {str(static / name): target for name, target in ASSETS.items()}
        key = "force_include_editable" if version == "editable" else "force_include"
        build_data[key].update(files)
