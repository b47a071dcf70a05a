"""Templates of generated files: the runtime's, or the project's own of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
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
from vibetuner.scaffold.imports import import_lines

__all__ = ["EJECTED", "Renderer", "call_lines", "list_templates"]

EJECTED = "scaffold"
PACKAGE = "vibetuner.scaffold"


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
            import_lines=lambda module, *names: import_lines(module, names, width=place.width),
            call_lines=lambda start, items, indent=0: call_lines(start, items, place.width, indent),
        )

    def render(self, template: str, /, **values: Any) -> str:
        """The text of a file.

        Raises:
            CommandError: the template, one of the project's own, is broken.
        """
        try:
            return self._environment.get_template(f"{template}.jinja").render(values)
        except TemplateSyntaxError as error:
            raise CommandError(f"{error.filename}:{error.lineno}: {error.message}") from None
        except TemplateError as error:
            own = self._place.root / EJECTED / f"{template}.jinja"
            raise CommandError(f"{own}: {error.message}") from None


def call_lines(start: str, items: Sequence[str], width: int, indent: int = 0) -> str:
    """A call as formatters write it: in one line, in one indented line, or one item a line.

    >>> call_lines("@cron", ['"* * * * *"', "unique=True"], 40)
    '@cron("* * * * *", unique=True)'
    >>> print(call_lines("@cron", ['"* * * * *"', "unique=True"], 30))
    @cron(
        "* * * * *", unique=True
    )
    """
    width, margin = width - indent, " " * indent
    line = f"{start}({', '.join(items)})"
    if len(line) <= width:
        return line
    together = f"    {', '.join(items)}"
    inside = [together] if len(together) <= width else [f"    {item}," for item in items]
    return "\n".join([f"{start}(", *(f"{margin}{line}" for line in inside), f"{margin})"])


def list_templates() -> dict[str, str]:
    """The runtime's own templates, by file name."""
    folder = Path(__file__).parent / "templates"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
