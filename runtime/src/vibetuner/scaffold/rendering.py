"""Renders generated files from templates, and formats them with the project's ruff."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any

from jinja2 import (
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
)

from vibetuner.errors import CommandError
from vibetuner.scaffold.draft import Place

EJECTED = "scaffold"
PACKAGE = "vibetuner.scaffold"
RUFF_STEPS = (("check", "--select=I", "--fix-only"), ("format",))


class Renderer:
    """Renders templates for a project."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._environment = Environment(
            loader=ChoiceLoader(
                [FileSystemLoader(place.root / EJECTED), PackageLoader(PACKAGE, "templates")]
            ),
            autoescape=False,  # noqa: S701 - it writes Python, and names that were checked
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.globals.update(
            package=place.package,
            # Kept for templates that were ejected from an older version.
            import_lines=lambda module, *names: f"from {module} import {', '.join(names)}",
            call_lines=lambda start, items, indent=0: f"{start}({', '.join(items)})",  # noqa: ARG005
        )

    def render(self, template: str, /, **values: Any) -> str:
        """Return the text of a file.

        Raises:
            CommandError: an ejected template of the project is broken.
        """
        try:
            return self._environment.get_template(f"{template}.jinja").render(values)
        except TemplateSyntaxError as error:
            raise CommandError(f"{error.filename}:{error.lineno}: {error.message}") from None
        except TemplateError as error:
            own = self._place.root / EJECTED / f"{template}.jinja"
            raise CommandError(f"{own}: {error.message}") from None


def tidy(place: Place, path: Path, text: str) -> str:
    """Return Python formatted by ruff with the project's configuration and sorted imports.

    Return the text unchanged if ruff is not installed or can't parse it.
    """
    folders = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    ruff = which("ruff", path=os.pathsep.join(folders))
    if ruff is None or path.suffix != ".py":
        return text
    # Tell ruff which imports are the project's: their files may not be written yet.
    ours = f'lint.isort.known-first-party = ["{place.package}"]'
    for step in RUFF_STEPS:
        done = subprocess.run(
            [ruff, *step, "--quiet", "--no-cache", "--config", ours, "--stdin-filename", path, "-"],
            cwd=place.root, input=text.encode(), capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return text
        text = done.stdout.decode()
    return text


def list_templates() -> dict[str, str]:
    """Return the runtime's own templates, by file name."""
    folder = Path(__file__).parent / "templates"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
