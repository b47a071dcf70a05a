"""How many packages does a project install, and how large are they?"""

from __future__ import annotations

from pathlib import Path

from lab import MEGABYTE, Figure, environment, existing


def measure(*, beside: bool) -> list[Figure]:
    """Measure the packages of production, and of a developer's machine."""
    ours = environment(dev=False), environment(dev=True)
    theirs = (existing(), existing("dev")) if beside else (None, None)
    sets = ("production", "with the development tools")
    return [
        figure
        for name, folder, other in zip(sets, ours, theirs, strict=True)
        for figure in figures(name, folder, other)
    ]


def figures(name: str, ours: Path, theirs: Path | None) -> list[Figure]:
    """Compare the packages of one environment with the other product's."""
    whole = name != "production"
    return [
        Figure(
            what=f"packages, {name}",
            ours=len(packages(ours)),
            unit="",
            aim="at most half" if whole else "",
            beside=len(packages(theirs)) if theirs else None,
            reported=151 if whole else None,
        ),
        Figure(
            what=f"their size, {name}",
            ours=size(ours),
            unit="MB",
            aim="at most half" if whole else "",
            beside=size(theirs) if theirs else None,
            reported=314 if whole else None,
        ),
    ]


def packages(folder: Path) -> list[Path]:
    """Return the installed distributions."""
    return list(folder.glob("lib/python*/site-packages/*.dist-info"))


def size(folder: Path) -> float:
    """Return the megabytes of all files, without compiled bytecode."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files if file.suffix != ".pyc") / MEGABYTE
