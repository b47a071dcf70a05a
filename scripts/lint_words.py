"""Finds sentences that read badly: ``just lint`` fails while there is one.

A docstring begins with a noun or an imperative, so that it is understood without its surroundings:
never with a pronoun, a conjunction, or What, Whether, How, Where or When; only a question may begin
so, as the titles of benchmarks do.
The words that docs/glossary.md has retired are gone from pages, docstrings and comments. A
paragraph has at most 90 words. With ``--subject FILE`` it looks at a commit message instead, as
the hook does that ``just setup`` installs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_WORDS = 90
MOST_CHARACTERS = 72

CODE = ("benchmarks", "chaos", "runtime/src", "scripts", "template", "tests")
PAGES = ("README.md", "CONTRIBUTING.md", "docs", "template")
# Decisions are records and are not rewritten; the table of retired words, and the test, hold them.
LEFT_OUT = re.compile(r"docs/(decisions/|glossary\.md)|tests/docs/test_words\.py")

# A docstring begins its line; other long strings are matched too, so as to be passed over.
LONG_STRING = re.compile(r'^([^"\n]*)"""(.*?)"""', re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(?:^|\s)# (.*)$", re.MULTILINE)
CODE_BLOCK = re.compile(r"^[ \t]*(```+).*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
QUESTION = re.compile(
    r"\s*(What|Whether|How|Where|When|It|Its|They|Their|Those|These|And|But|So|Also|Even|Not)\b"
    r"(?![^\n]*\?\s*(?:\n|$))"
)
# A paragraph ends at an empty line, and at an item of a list or of a docstring's sections.
BREAK = re.compile(r"\n[ \t]*\n|\n(?=[ \t]*(?:[-*|#>├│└]|\d+\.|\w+:[ \n]))")

Found = Iterator[tuple[int, str]]


def main() -> None:
    """Print each fault with its file and line, and exit with 1 if there is one."""
    match sys.argv[1:]:
        case ["--subject", file]:
            found = list(faults_of_subject(Path(file).read_text(encoding="utf-8")))
        case [root]:
            found = list(faults_of_tree(Path(root)))
        case _:
            found = list(faults_of_tree(ROOT))
    sys.exit("\n".join(found) if found else 0)


def faults_of_subject(message: str) -> Iterator[str]:
    """Yield the faults of a commit message's first line."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    subject = next(filter(None, lines), "")
    if subject.startswith(("Merge ", "fixup! ", "squash! ")):
        return
    if len(subject) > MOST_CHARACTERS:
        excess = len(subject) - MOST_CHARACTERS
        yield f"error: the subject is {excess} characters too long. Shorten it:  {subject}"
    if subject.endswith("."):
        yield f"error: the subject ends with a full stop. Leave that out:  {subject}"


def faults_of_tree(root: Path) -> Iterator[str]:
    """Yield the faults of all files, each with its file and line."""
    retired = read_retired(root / "docs" / "glossary.md")
    for path in files_in(root, CODE, (".py", ".py.jinja")):
        text = path.read_text(encoding="utf-8")
        strings = LONG_STRING.finditer(text)
        parts = [(one.start(2), one[2]) for one in strings if one[1].strip() in {"", "r"}]
        faults = [(at, fault) for at, part in parts for at, fault in faults_of_docstring(at, part)]
        parts += [(found.start(1), found[1]) for found in COMMENT.finditer(text)]
        faults += [each for at, part in parts for each in faults_of_words(at, part, retired)]
        yield from placed(root, path, text, faults)
    for path in files_in(root, PAGES, (".md", ".md.jinja")):
        text = path.read_text(encoding="utf-8")
        prose = CODE_BLOCK.sub(
            lambda found: re.sub(r"[^\n]", "", found[0]).rjust(len(found[0])), text
        )
        faults = [*faults_of_length(0, prose), *faults_of_words(0, prose, retired)]
        yield from placed(root, path, text, faults)


def read_retired(glossary: Path) -> dict[re.Pattern[str], str]:
    """Return the retired words of the glossary's last table, and what stands in their place."""
    table = glossary.read_text(encoding="utf-8").rpartition("## Retired words")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {
        re.compile(rf"\b{word}\b".replace(" ", r"\s+"), re.IGNORECASE): better
        for words, better in rows[1:]
        for word in words.split(", ")
    }


def files_in(root: Path, places: tuple[str, ...], ends: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files below some places whose names end so."""
    for place in places:
        start = root / place
        for path in [start] if start.is_file() else sorted(start.rglob("*")):
            name = path.relative_to(root).as_posix()
            if name.endswith(ends) and not LEFT_OUT.match(name):
                yield path


def faults_of_docstring(start: int, text: str) -> Found:
    """Yield the faults of a docstring: its first word, and its long paragraphs."""
    if question := QUESTION.match(text):
        cure = "Begin with a noun, or with an imperative such as Return"
        yield start, f"a docstring begins with {question[1]}. {cure}"
    yield from faults_of_length(start, text)


def faults_of_length(start: int, text: str) -> Found:
    """Yield the paragraphs that are too long; tables and pictures have none."""
    for paragraph, at in paragraphs(text):
        count = len(paragraph.split())
        if count > MOST_WORDS and not paragraph.lstrip().startswith(("|", "<")):
            yield start + at, f"a paragraph of {count} words. Divide it: {MOST_WORDS} are enough"


def paragraphs(text: str) -> Iterator[tuple[str, int]]:
    """Yield each paragraph, and where it begins."""
    at = 0
    for found in BREAK.finditer(text):
        yield text[at : found.start()], at
        at = found.end()
    yield text[at:], at


def faults_of_words(start: int, text: str, retired: dict[re.Pattern[str], str]) -> Found:
    """Yield the retired words of a text."""
    for pattern, better in retired.items():
        for found in pattern.finditer(text):
            yield start + found.start(), f"{' '.join(found[0].split())!r} is retired: {better}"


def placed(root: Path, path: Path, text: str, faults: list[tuple[int, str]]) -> Iterator[str]:
    """Yield each fault with its file and line."""
    for at, fault in sorted(faults):
        line = text.count("\n", 0, at) + 1
        yield f"{path.relative_to(root)}:{line}: {fault}"


if __name__ == "__main__":
    main()
