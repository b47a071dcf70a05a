"""Puts htmx into the wheel: pages work offline, and no copy of it lives in the repository."""

from __future__ import annotations

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# django-htmx is only a build requirement: it is the best-kept PyPI package that carries both files.
# Every visitor's browser runs them, so a build takes no others: htmx 2.0.10, and its extension.
ASSETS = {
    "htmx-2.min.js": (
        "vibetuner_htmx/htmx.min.js",
        "71ea67185bfa8c98c39d31717c6fce5d852370fcdfd129db4543774d3145c0de",
    ),
    "ext/hx-sse-2.min.js": (
        "vibetuner_htmx/htmx-sse.min.js",
        "98a46496de0c3605fbffdce9167ba427bdd9553184f83f149c261891a92c0136",
    ),
}


class HtmxHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        spec = find_spec("django_htmx")
        if spec is None or spec.origin is None:
            raise RuntimeError("django-htmx is missing from the build environment")
        static = Path(spec.origin).parent / "static" / "django_htmx"
        key = "force_include_editable" if version == "editable" else "force_include"
        build_data[key].update(checked_assets(static))


def checked_assets(folder: Path) -> dict[str, str]:
    """Return where each file goes; raise RuntimeError for one that is not as it was reviewed."""
    for name, (_, expected) in ASSETS.items():
        found = sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise RuntimeError(
                f"{name} has the SHA-256 {found}, not {expected}. Compare it with htmx's own "
                "release, then change the hash in hatch_build.py"
            )
    return {str(folder / name): target for name, (target, _) in ASSETS.items()}
