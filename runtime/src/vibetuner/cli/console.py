"""The start and the output of commands that finish in less time than rich takes to import."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from vibetuner.errors import CommandError, ProjectError
from vibetuner.logs import is_colourful
from vibetuner.project import ensure_env_file

Choice = TypeVar("Choice", bound=StrEnum)

CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


class Console:
    """Prints to the stdout that is set when it is created; lines are never wrapped."""

    def __init__(self) -> None:
        self._colourful = is_colourful(sys.stdout)

    def print(self, text: str = "", *, style: str | None = None, end: str = "\n") -> None:
        """Print ``text`` as it is, with a colour of :data:`CODES` if colours are on."""
        if style and self._colourful:
            text = f"\x1b[{CODES[style]}m{text}\x1b[0m"
        print(text, end=end)

    def print_fact(self, name: str, value: str) -> None:
        """Print a name and its value in one line."""
        self.print(f"{name:<12}", style="dim", end=" ")
        self.print(one_line(value))

    def print_traceback(self, traceback: str) -> None:
        """Print a traceback after an empty line; nothing if there is none."""
        if traceback:
            self.print()
            self.print("\n".join(map(one_line, traceback.splitlines())), style="red")


def one_line(text: str) -> str:
    """Replace characters that a terminal would take as a command.

    >>> one_line("a" + chr(27) + "[31m" + chr(10) + "b")
    'a�[31m b'
    """
    flat = " ".join(text.splitlines()) if len(text.splitlines()) > 1 else text
    return "".join(c if c.isprintable() else "\ufffd" for c in flat)


def parse_choice(kind: type[Choice], text: str, option: str) -> Choice:
    """Return the member of an enum that was typed; raise CommandError, which names all, if none."""
    try:
        return kind(text.strip().lower().replace("-", "_"))
    except ValueError:
        raise CommandError(f"{option} takes one of {', '.join(kind)}, not {text!r}") from None


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON document, with times as ISO texts."""
    print(json.dumps(content, default=_plain, indent=2))


def utc(at: datetime) -> str:
    """Return a time to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def note_wait(text: str) -> None:
    """Tell a person at a terminal what a command does that takes seconds."""
    if sys.stderr.isatty():
        print(f"{text} …", file=sys.stderr, flush=True)


def note_start() -> None:
    """Tell a person at a terminal that the command starts the embedded services first."""
    from vibetuner.config import EMBEDDED, get_settings
    from vibetuner.embedded import running_services

    settings = running_services(get_settings())
    if EMBEDDED in {settings.redis_url, settings.mongodb_url}:
        note_wait("starting the embedded services")


def make_env_file() -> None:
    """Create `.env` from `.env.example` if there is none, and report it."""
    if made := ensure_env_file():
        print(f"made {made.name} from .env.example, with a fresh SECRET_KEY", file=sys.stderr)


def prepare_env_file() -> None:
    """Create `.env` as ``vibetuner run dev`` does, for a command that is typed before it.

    If the environment names servers, or sets ENVIRONMENT to something other than development, the
    settings come from there, and no file is created.
    """
    if os.environ.get("ENVIRONMENT", "development") != "development":
        return
    if any(os.environ.get(name) for name in ("REDIS_URL", "MONGODB_URL", "DATABASE_URL")):
        return
    with suppress(ProjectError):  # in a read-only folder, later errors name the missing settings
        make_env_file()
