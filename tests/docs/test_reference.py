"""The reference covers all of the code: settings, commands, events, modules, messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from tests.docs.blocks import MODULES, PAGES, ROOT, read_blocks
from tests.processes import run_code
from vibetuner.cli.main import app
from vibetuner.config import Settings

DOCS = ROOT / "docs"
IMPORT = re.compile(r"^\s*from (vibetuner[\w.]*) import", re.MULTILINE)
CELL = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
DOCS_TABLES = """
import runpy, sys
sys.path.insert(0, "scripts")
runpy.run_path("scripts/docs_tables.py", run_name="__main__")
"""
SYSTEM = re.compile(r"^(Redis|MongoDB)")


def test_the_tables_of_the_reference_agree_with_the_code():
    """`docs_tables.py --check` finds no table that differs from the code."""
    checked = run_code(DOCS_TABLES, "--check", folder=ROOT)

    assert checked.returncode == 0, checked.stderr


def test_every_setting_is_documented():
    """The page of the settings has a row for each field of Settings."""
    page = (DOCS / "reference" / "settings.md").read_text("utf-8")

    assert [n.upper() for n in Settings.model_fields if f"| `{n.upper()}` |" not in page] == []


def test_a_new_projects_env_file_lists_every_setting_in_the_order_of_the_code():
    """The template's .env.example lists every setting in the order of the class Settings."""
    example = (ROOT / "template" / ".env.example").read_text(encoding="utf-8")
    listed = re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)
    assert listed == [name.upper() for name in Settings.model_fields]


def test_every_command_is_documented():
    """The page of the commands has a section for each command that `--help` leads to."""
    page = (DOCS / "reference" / "commands.md").read_text("utf-8")
    found = set(commands("vibetuner"))

    assert "vibetuner run" in found
    assert found == set(re.findall(r"^## (vibetuner .+)$", page, re.MULTILINE))


def test_every_event_and_log_line_is_documented():
    """Each event and log line in the sources is on the page of events.

    The test finds them in another way than the script that writes the table.
    """
    page = (DOCS / "reference" / "events.md").read_text("utf-8")
    sources = [path.read_text("utf-8") for path in (ROOT / "runtime/src").rglob("*.py")]
    lines = re.findall(
        r'logger\.(?:info|warning|error|critical|exception)\(\s*"([^"]+)"', "\n".join(sources)
    )
    sources += [path.read_text("utf-8") for path in (ROOT / "template").rglob("*.py*")]
    events = re.findall(r'broadcast\(\w+, "([^"]+)"', "\n".join(sources))
    events += re.findall(r'(?:COMPLETE|FAILED|ABORTED) = "(\w+)"', "\n".join(sources))
    events += re.findall(r' Event\("(\w+)"', "\n".join(sources))

    assert len(lines) > 20
    assert [line for line in lines if line not in page] == []
    assert len(events) > 1
    assert [event for event in events if f"| `{event}` |" not in page] == []


def test_every_module_that_people_import_has_a_page():
    """Each module that a page or a generated project imports has a page in the reference."""
    sources = [block.text for page in PAGES for block in read_blocks(page)]
    sources += [path.read_text("utf-8") for path in (ROOT / "template").rglob("*.py*")]
    imported = {name for source in sources for name in IMPORT.findall(source)}
    documented = {path.stem for path in MODULES.glob("*.md")}

    assert "vibetuner.tasks.robust" in imported
    assert imported - documented == set()


def test_a_modules_page_shows_its_declarations_on_a_git_host_too():
    """A module's page shows signatures, parameters, defaults and errors as plain Markdown."""
    pages = {path.stem: path.read_text("utf-8") for path in MODULES.glob("*.md")}
    robust = pages["vibetuner.tasks.robust"]

    assert [name for name, text in pages.items() if "\n```python\n" not in text] == []
    assert "\n## robust_task\n\n```python\ndef robust_task(\n    max_retries: int = 3,\n" in robust
    assert "| `max_retries` | `int` | `3` | the largest number of tries" in robust
    assert "\n- `TypeError, ValueError`: a parameter has a wrong type" in robust


def test_the_messages_on_the_troubleshooting_page_are_in_the_code():
    """Each message that the troubleshooting page quotes is a text in the code."""
    page = (DOCS / "how-to" / "troubleshooting.md").read_text("utf-8")
    said = [text for path in (ROOT / "runtime/src").rglob("*.py") for text in texts(path)]
    quoted = [cell for cell in CELL.findall(page) if "…" in cell or " " in cell]

    assert len(quoted) > 5
    assert [message for message in quoted if not is_said(message, said)] == []


def commands(*path: str) -> Iterator[str]:
    """Yield every command below a group, as the help lists it."""
    shown = CliRunner().invoke(app, [*path[1:], "--help"]).stdout
    _, found, listed = shown.partition("Commands:\n")
    if not found:
        yield " ".join(path)
    for name in re.findall(r"^  ([\w-]+)", listed, re.MULTILINE):
        yield from commands(*path, name)


def texts(path: Path) -> Iterator[str]:
    """Yield the string constants of a file, with ``…`` for each value that is filled in."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sdg]", "…", node.value)
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )


def is_said(message: str, said: list[str]) -> bool:
    """Return whether the pieces of a message stand together in one text of the code.

    The name of the system may be a value.
    """
    return any(
        all(piece.strip(" .") in text for piece in version.split("…"))
        for version in (message, SYSTEM.sub("…", message))
        for text in said
    )
