"""Parses names as people type them: ``Reports``, ``send-report``, ``billing/reports_task``."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from vibetuner.errors import CommandError

LONGEST = 40
DEEPEST = 3
# Names that generated files and tune.py need for themselves, and one that ruff calls ambiguous.
RESERVED = {
    "app", "broadcast", "conftest", "l", "lifespan", "load_project", "mock_tasks", "model",
    "models", "patch", "progress", "render", "request", "route", "router", "routes", "task",
    "tasks", "test", "timedelta", "tune", "worker",
}  # fmt: skip
# Names whose classes a model's file, its test or its migration imports already.
CLASSES = {"async_engine", "class_var", "database", "document", "field", "utc_date_time"}
# Addresses of the runtime's own pages, which come before the project's.
PAGES = {"debug", "health"}
# Suggestions: a whole name, and a word to append to a name that is taken.
EXAMPLES = {"task": "send_report", "route": "reports", "model": "invoice"}
TAILS = {"task": "job", "route": "page", "model": "record"}


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is valid in Python and its tools, and readable.

    >>> name = Name(("billing",), "send_report")
    >>> name.dotted, name.path, name.class_name, name.title
    ('billing.send_report', 'billing/send_report', 'SendReport', 'Send report')
    """

    folders: tuple[str, ...]
    leaf: str

    @property
    def dotted(self) -> str:
        """The name as a module."""
        return ".".join((*self.folders, self.leaf))

    @property
    def path(self) -> str:
        """The name as a path, without a suffix."""
        return "/".join((*self.folders, self.leaf))

    @property
    def slug(self) -> str:
        """The name as a part of a URL."""
        return self.path.replace("_", "-")

    @property
    def class_name(self) -> str:
        """The name as a class."""
        return "".join(word.capitalize() for word in self.leaf.split("_"))

    @property
    def title(self) -> str:
        """The name for people."""
        return self.leaf.replace("_", " ").capitalize()


def parse_name(
    text: str,
    kind: str,
    *,
    is_taken: Callable[[str], bool] = lambda _: False,
    room: int = (LONGEST + 1) * DEEPEST,
) -> Name:
    """Return the name that a person means.

    Args:
        text: as typed; folders are separated by ``/`` or ``.``.
        kind: task, route or model; this word is removed from the end.
        is_taken: returns whether a name belongs to an installed package.
        room: the most characters of folders and name, so that an import fits on a line.

    Raises:
        CommandError: the text is not a valid name; the message suggests one.

    >>> [parse_name(text, "task").path for text in ("Reports", "reports_task", "SendReport")]
    ['reports', 'reports', 'send_report']
    >>> parse_name("billing/reports", "task")
    Name(folders=('billing',), leaf='reports')
    """
    parts = _split(text, kind)
    problem = _problem(parts, kind, is_taken)
    if problem is None and len("/".join(parts)) > room:
        problem = f"makes lines too long: use at most {room} characters"
    if problem:
        shown = text if text.isprintable() and len(text) <= 2 * LONGEST else f"{text[:LONGEST]!r}…"
        suggestion = _suggest(parts, kind, is_taken, room)
        raise CommandError(f"{shown.strip() or 'The name'} {problem}. Try:  {suggestion}")
    return Name(tuple(parts[:-1]), parts[-1])


def snake(text: str) -> str:
    """Return the words in lower case, joined by underscores; other characters stay as they are.

    >>> snake("SendReport"), snake("HTTPServer"), snake(" send-report "), snake("Ärger!")
    ('send_report', 'http_server', 'send_report', 'ärger!')
    """
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text.strip())
    return re.sub(r"[\s_-]+", "_", text).strip("_").lower()


def plural(word: str) -> str:
    """Return the regular English plural.

    >>> [plural(word) for word in ("order", "category", "day", "address", "orders")]
    ['orders', 'categories', 'days', 'addresses', 'orders']
    """
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    if word.endswith(("ss", "x", "ch", "sh")):
        return f"{word}es"
    return word if word.endswith("s") else f"{word}s"


def _split(text: str, kind: str) -> list[str]:
    """Return the parts in snake case, without the folder that contains files of this kind."""
    text = text.strip().removesuffix(".py")
    if ".." in text or text.startswith(("/", "~")) or "\\" in text:
        return [text]
    parts = [snake(part) for part in re.split(r"[/.]", text.rstrip("/"))]
    if parts[0] == "src":
        parts = parts[2:]
    if parts[:1] == ["frontend"]:
        parts = parts[1:]
    if len(parts) > 1 and parts[0] == f"{kind}s":
        parts = parts[1:]
    return [*parts[:-1], parts[-1].removesuffix(f"_{kind}") or parts[-1]] if parts else [""]


def _problem(parts: list[str], kind: str, is_taken: Callable[[str], bool]) -> str | None:
    if re.search(r"\.\.|^[/~]|\\", parts[-1]):
        return f"would leave the folder of the {kind}s"
    if len(parts) > DEEPEST:
        return f"is nested too deep: use at most {DEEPEST - 1} folders"
    return next(filter(None, (_problem_of(part, kind, is_taken) for part in parts)), None)


def _problem_of(part: str, kind: str, is_taken: Callable[[str], bool]) -> str | None:
    """Return the most important problem of one part."""
    problems = {
        "is empty": not part,
        "begins with a digit": part[:1].isdigit(),
        "has characters other than letters of a to z, digits and underscores": not part.isascii()
        or not f"_{part}".isidentifier(),
        f"is longer than {LONGEST} characters": len(part) > LONGEST,
        "is a keyword of Python": keyword.iskeyword(part) or keyword.issoftkeyword(part),
        "is a builtin of Python": hasattr(builtins, part),
        "is a module of Python's library": part in sys.stdlib_module_names,
        "begins as SQLite's own tables": kind == "model" and part.startswith("sqlite_"),
        "has a meaning in the project already": part in RESERVED
        or (kind == "model" and part in CLASSES)
        or (kind != "model" and part in PAGES),
    }
    found = next((problem for problem, holds in problems.items() if holds), None)
    return found or ("is the name of a package here" if is_taken(part) else None)


def _suggest(parts: list[str], kind: str, is_taken: Callable[[str], bool], room: int) -> str:
    flat = [part for text in parts for part in re.split(r"[/.\\~]+", text)]
    mended = [_mend(part, kind, is_taken) for part in flat]
    kept = [part for part in mended if part][-DEEPEST:]
    while len("/".join(kept)) > room:
        kept = kept[1:] or [_mend(_shortened(kept[0], room), kind, is_taken)]
    return "/".join(kept) or EXAMPLES[kind]


def plain_words(text: str) -> str:
    """Return the nearest name of letters from a to z, digits and underscores; empty if none is.

    >>> [plain_words(text) for text in ("Größe", "2nd-try", "created at", "12", "?")]
    ['grosse', 'nd_try_2', 'created_at', '', '']
    """
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore")
    words = snake(re.sub(r"[^A-Za-z0-9]+", "_", plain.decode()))
    words = re.sub(r"^([0-9_]+)(.+)", r"\2_\1", words).strip("_")
    if not words or words[0].isdigit():
        return ""
    return _shortened(words, LONGEST) if len(words) > LONGEST else words


def _mend(part: str, kind: str, is_taken: Callable[[str], bool]) -> str:
    """Return the nearest valid name; empty if nothing is left."""
    words = plain_words(part)
    if not words or _problem_of(words, kind, is_taken) is None:
        return words
    words = words.removeprefix("sqlite_")[: LONGEST - 7]
    return f"{words}_{TAILS[kind]}".replace("__", "_")


def _shortened(words: str, length: int) -> str:
    return words[:length].rpartition("_")[0] or words[:length]
