"""Runs the benchmarks, prints their tables, and writes them into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module

from lab import ROOT, Figure, Table
from rich.console import Console
from rich.markdown import Markdown

NAMES = (
    "copying", "coldstart", "imports", "worker", "start", "footprint", "drain", "waiting",
    "ceiling", "backlog", "traffic", "durable", "topologies", "peers", "defaults", "sse",
    "dashboard", "journal", "outbox", "webhook",
)  # fmt: skip
PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Speed and size: the times that people wait for, and the space that a project takes. `just bench` \
measures all of it and rewrites this page; `just bench imports` measures one table. With \
`--beside` it also installs the existing product from PyPI, in a temporary environment, and \
measures it in turn with ours.

- Times are medians of several runs, on a machine that has other things to do; commands that are \
compared take turns.
- Memory is in MiB, as `ps` and `top` count; files are in MB.
- *Beside* was measured in the same minutes as ours. In the tables of the engine it is streaq alone.
- *As measured by others* is quoted: measured on the same kind of machine, in a way that we have \
not seen.
- The ratio says how many times as much time or space the other takes, or how many times its rate \
ours is. It compares with *beside* if there is one. Below 1, ours is slower or larger.
- In brackets: the lowest and the highest of all rounds.
- An aim is *held* or **missed**. No test asserts a time.
"""
HEADER = (
    "", "ours", "aim", "existing, beside", "existing, as measured by others", "ratio",
)  # fmt: skip
RULE = "|---|{}"


def main() -> None:
    """Measure the named tables, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--beside", action="store_true", help="measure the existing product too")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {NAMES}")
    sections = read_sections()
    sys.path.append(str(ROOT))  # tests/ has the servers that replicate
    for name in options.names or NAMES:
        question = import_module(name)
        figures = question.measure(beside=options.beside)
        sections[name] = render(question.__doc__ or name, figures, getattr(question, "NOTE", ""))
        Console().print(Markdown(sections[name]))
        write_sections(sections)


def render(question: str, found: Sequence[Figure] | Table, note: str) -> str:
    """Return the section of one question: its notes and its table."""
    table = found if isinstance(found, Table) else Table(HEADER, [cells(line) for line in found])
    lines = [row(table.header), RULE.format("--:|" * (len(table.header) - 1))]
    lines += [row(line) for line in table.rows]
    parts = (f"## {question}", machine(), note, table.note, "\n".join(lines))
    return "\n\n".join(filter(None, parts)) + "\n"


def row(texts: Sequence[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(texts)} |"


def cells(figure: Figure) -> tuple[str, ...]:
    """Return the texts of one line."""
    against = figure.reported if figure.beside is None else figure.beside
    verdict = {None: "", True: ", held", False: ", **missed**"}[figure.held]
    return (
        figure.what,
        shown(figure.ours, figure.unit, figure.spread),
        figure.aim + verdict,
        shown(figure.beside, figure.unit, figure.beside_spread),
        shown(figure.reported, figure.unit.replace("MiB", "MB")),
        "" if against is None else f"{ratio(figure, against):.1f}",
    )


def ratio(figure: Figure, against: float) -> float:
    """Return how many times as good ours is: less of a time or size, more of a rate."""
    ours = figure.ours
    return ours / against if figure.unit.endswith(("/s", "%")) else against / ours


def shown(value: float | None, unit: str, spread: tuple[float, float] | None = None) -> str:
    """Return a number with its unit and its spread, or nothing."""
    if value is None:
        return ""
    between = f"({rounded(spread[0])} to {rounded(spread[1])})" if spread else ""
    return " ".join(filter(None, (rounded(value), unit, between)))


def rounded(value: float) -> str:
    """Return a number with as many digits as are meaningful."""
    return f"{value:.{0 if value >= 10 else 1 if value >= 0.95 else 2}f}"


def machine() -> str:
    """Describe the machine in general terms."""
    today = datetime.now(UTC).date()
    system, python = platform.system(), platform.python_version()
    load = f"{os.getloadavg()[0]:.0f}"
    return f"{os.cpu_count()} cores, {system}, Python {python}; {today}, under a load of {load}."


def read_sections() -> dict[str, str]:
    """Return the page's sections by name; those that are not measured now stay as they are."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return dict(re.findall(r"<!-- (\w+) -->\n(.*?)(?=\n<!-- |\Z)", text, re.DOTALL))


def write_sections(sections: dict[str, str]) -> None:
    """Write the page, in the order of the questions."""
    parts = [f"<!-- {name} -->\n{sections[name]}" for name in NAMES if name in sections]
    PAGE.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


if __name__ == "__main__":
    main()
