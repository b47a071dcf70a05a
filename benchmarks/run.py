"""Runs the benchmarks, prints their tables, and writes them into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module

from lab import ROOT, Figure
from rich.console import Console
from rich.markdown import Markdown

NAMES = (
    "copying", "coldstart", "imports", "worker", "start", "footprint", "drain", "waiting", "sse",
    "dashboard", "journal",
)  # fmt: skip
PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

What people wait for, and what a project occupies. `just bench` measures all of it anew and \
rewrites this page; `just bench imports` does one question, and `just bench --beside` also \
installs the existing product from PyPI, in an environment that is thrown away, to measure it in \
turn with ours.

Times are medians of several runs, on a machine that has other \
things to do; commands that are compared take turns. Memory is in MiB, as \
`ps` and `top` count; files are in MB. *Beside* was \
measured in the same minutes as ours; *as measured by others* is quoted: it was measured on the \
same kind of machine, in a way that we have not seen. A ratio \
above 1 says how many times as much time or space the other takes, or how many times its rate ours \
is; it is against *beside* where there is one. Where the engine is measured, *beside* is streaq \
alone. These figures inform; no test asserts a time.
"""
HEADER = "| | ours | aim | existing, beside | existing, as measured by others | ratio |"


def main() -> None:
    """Measure what is named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--beside", action="store_true", help="measure the existing product too")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {NAMES}")
    sections = read_sections()
    for name in options.names or NAMES:
        question = import_module(name)
        figures = question.measure(beside=options.beside)
        sections[name] = render(question.__doc__ or name, figures, getattr(question, "NOTE", ""))
        Console().print(Markdown(sections[name]))
        write_sections(sections)


def render(question: str, figures: Sequence[Figure], note: str) -> str:
    """One question with its table, and what must be known of it."""
    rows = "\n".join(f"| {' | '.join(cells(figure))} |" for figure in figures)
    head = "\n\n".join(filter(None, (f"## {question}", machine(), note)))
    return f"{head}\n\n{HEADER}\n|---|--:|---|--:|--:|--:|\n{rows}\n"


def cells(figure: Figure) -> list[str]:
    """One line of the table."""
    against = figure.reported if figure.beside is None else figure.beside
    return [
        figure.what,
        shown(figure.ours, figure.unit),
        figure.aim,
        shown(figure.beside, figure.unit),
        shown(figure.reported, figure.unit.replace("MiB", "MB")),
        "" if against is None else f"{ratio(figure, against):.1f}",
    ]


def ratio(figure: Figure, against: float) -> float:
    """How many times as good ours is: less of a time or a size, more of a rate."""
    ours = figure.ours
    return ours / against if figure.unit.endswith("/s") else against / ours


def shown(value: float | None, unit: str) -> str:
    """A number with its unit, or nothing."""
    return "" if value is None else f"{value:.{0 if value >= 10 else 1}f} {unit}".strip()


def machine() -> str:
    """What it ran on, in general terms."""
    today = datetime.now(UTC).date()
    system, python = platform.system(), platform.python_version()
    load = f"{os.getloadavg()[0]:.0f}"
    return f"{os.cpu_count()} cores, {system}, Python {python}; {today}, under a load of {load}."


def read_sections() -> dict[str, str]:
    """The page's sections by name; those that are not measured now stay as they are."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return dict(re.findall(r"<!-- (\w+) -->\n(.*?)(?=\n<!-- |\Z)", text, re.DOTALL))


def write_sections(sections: dict[str, str]) -> None:
    """Write the page, in the order of the questions."""
    parts = [f"<!-- {name} -->\n{sections[name]}" for name in NAMES if name in sections]
    PAGE.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


if __name__ == "__main__":
    main()
