"""Writes the parts of the documentation that come from the code: tables, and modules' pages.

A table stands in its page between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; a page in
docs/reference/modules is written whole. With ``--check`` nothing is written, and a part that
differs from the code is an error.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from docs_modules import module_page, plain, table
from docs_scan import RUNTIME, log_lines, parse, sent_events
from vibetuner.cli.main import app
from vibetuner.config import Expected, Settings
from vibetuner.tasks.progress.state import ENDS, PROGRESS, ProgressStatus

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "docs" / "reference" / "modules"
TABLE = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main() -> None:
    """Bring every page up to date, or with ``--check`` name those that are not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        renewed = module_page(page.stem) if page.parent == MODULES else renew(text)
        if renewed == text:
            continue
        stale.append(str(page.relative_to(ROOT)))
        if not options.check:
            page.write_text(renewed, encoding="utf-8")
    if stale and options.check:
        sys.exit(f"error: not up to date: {', '.join(stale)}. Run:  uv run just docs")


def renew(text: str) -> str:
    """Return the text of a page with its tables renewed."""
    return TABLE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def settings_table() -> str:
    """Return the table of settings, with their defaults and values."""
    rows = []
    for name, field in Settings.model_fields.items():
        expected = next(item.text for item in field.metadata if isinstance(item, Expected))
        secret = " (secret)" if field.annotation == (SecretStr | None) else ""
        rows.append((f"`{name.upper()}`", f"{field.description}{secret}", expected, default(field)))
    return table(("variable", "what it is for", "holds", "default"), rows)


def default(field: Any) -> str:
    """Return a setting's default, as it would be typed."""
    if field.default in {None, "", PydanticUndefined}:
        return "none"
    match field.default:
        case bool() as value:
            return f"`{str(value).lower()}`"
        case float() as value:
            return f"`{value:g}`"
        case value:
            return f"`{value}`"


def commands_tables() -> str:
    """Return a section for each command: its help, its arguments and its options."""
    return "\n\n".join(command_section(path, command) for path, command in commands())


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that can be typed, by its full name."""
    yield from _commands("vibetuner", typer.main.get_command(app))


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, child in inner.items():
        if not child.hidden:
            yield from _commands(f"{path} {name}", child)


def command_section(path: str, command: Any) -> str:
    """Return the help of one command as Markdown."""
    rows = [
        (f"`{usage(item)}`", item.help or "", shown(item))
        for item in command.params
        if not item.hidden and item.name != "help"
    ]
    text = "\n\n".join(part.replace("\n", " ") for part in (command.help or "").split("\n\n"))
    parts = [f"## {path}", text]
    if rows:
        parts.append(table(("argument or option", "meaning", "default"), rows))
    return "\n\n".join(parts)


def usage(item: Any) -> str:
    """Return how an argument or an option is typed."""
    kind = item.type_descriptor.annotation
    values = "|".join(get_args(kind)) if get_origin(kind) is Literal else None
    if item.opts[0].startswith("-"):
        value = "" if item.is_flag else f" {values or item.metavar or item.name.upper()}"
        return f"{', '.join(item.opts)}{value}"
    return values or item.metavar or item.name.upper()


def shown(item: Any) -> str:
    """Return the default of an argument or an option."""
    if item.required:
        return "required"
    if item.default in (None, False, ()):
        return ""
    return f"`{item.default}`"


def log_lines_table() -> str:
    """Return the table of the runtime's log lines, as they are in the code."""
    return table(("level", "line", "logger"), sorted(set(log_lines()), key=lambda row: row[::-1]))


def sent_events_table() -> str:
    """Return the table of the events whose names the code spells out, and of those of progress."""
    rows = {*sent_events(), *progress_events()}
    return table(("event", "channel", "sent by"), sorted(rows))


def progress_events() -> Iterator[tuple[str, str, str]]:
    """Yield the events of a task: one for its changes, and one for each end."""
    yield f"`{ProgressStatus.UNKNOWN}`", "the stream's own", "the runtime, `stream.py`"
    for name in (PROGRESS, *ENDS - {ProgressStatus.UNKNOWN}):
        yield f"`{name}`", "the task's id, and `Progress(channel=)`", "the runtime, `progress.py`"


def decisions_table() -> str:
    """Return the table of decisions, with their dates."""
    rows = []
    for path in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        title, _, accepted = path.read_text(encoding="utf-8").split("\n", 3)[:3]
        number, name = title.removeprefix("# ").split(". ", 1)
        date = accepted.removeprefix("Accepted on ").partition(".")[0]
        rows.append((number, f"[{name}]({path.name})", date))
    return table(("number", "decision", "since"), rows)


def modules_table() -> str:
    """Return the table of the modules that have a page, with their purposes."""
    rows = []
    for path in sorted(MODULES.glob("*.md")):
        source = RUNTIME / path.stem.replace(".", "/")
        module = source.with_suffix(".py")  # a folder may be left over from a former package
        source = module if module.exists() else source / "__init__.py"
        text = ast.get_docstring(parse(source)) or ""
        first = plain(text.split("\n", 1)[0])
        rows.append((f"[`{path.stem}`](modules/{path.name})", first))
    return table(("module", "what it is for"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "commands": commands_tables,
    "log-lines": log_lines_table,
    "decisions": decisions_table,
    "modules": modules_table,
    "sent-events": sent_events_table,
}


if __name__ == "__main__":
    main()
