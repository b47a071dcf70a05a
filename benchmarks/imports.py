"""What do an import and `--help` cost, against a bare interpreter and against typer?"""

from __future__ import annotations

from pathlib import Path

from lab import Figure, Runs, environment, existing, race, workplace

ROUNDS = 15


def measure(*, beside: bool) -> list[Figure]:
    """Measure wall times with bytecode cached and without, and the memory of `--help`."""
    environments = {"ours": environment(dev=False)}
    if beside:
        environments["existing"] = existing()
    commands = {
        f"{whose} {what}": command
        for whose, folder in environments.items()
        for what, command in commands_in(folder).items()
    }
    cached = race(commands, rounds=ROUNDS)
    empty = workplace() / "no-bytecode"
    fresh = race(commands, rounds=5, PYTHONDONTWRITEBYTECODE="1", PYTHONPYCACHEPREFIX=str(empty))
    return [*figures(cached), *figures_without_bytecode(fresh)]


def commands_in(folder: Path) -> dict[str, list[str | Path]]:
    """Return the four commands to compare."""
    python, script = folder / "bin" / "python", folder / "bin" / "vibetuner"
    return {
        "python": [python, "-c", "pass"],
        "typer": [python, "-c", "import typer"],
        "import": [python, "-c", "import vibetuner"],
        "help": [script, "--help"],
    }


def figures(runs: dict[str, Runs]) -> list[Figure]:
    """Return the lines with bytecode cached, as on every run but the first."""
    bare, typer = runs["ours python"].milliseconds, runs["ours typer"].milliseconds
    return [
        Figure(what="`python -c pass`", ours=bare, unit="ms"),
        Figure(what='`python -c "import typer"`', ours=typer, unit="ms"),
        Figure(
            what='`python -c "import vibetuner"`',
            ours=runs["ours import"].milliseconds,
            unit="ms",
            aim=f"bare interpreter + 50 ms: {bare + 50:.0f}",
            beside=time_of(runs, "existing import"),
            reported=1850,
        ),
        Figure(
            what="`vibetuner --help`",
            ours=runs["ours help"].milliseconds,
            unit="ms",
            aim=f"1.5 times `import typer`: {1.5 * typer:.0f}",
            beside=time_of(runs, "existing help"),
            reported=2600,
        ),
        Figure(
            what="`vibetuner --help`, memory at its peak",
            ours=runs["ours help"].mebibytes,
            unit="MiB",
            beside=runs["existing help"].mebibytes if "existing help" in runs else None,
            reported=106,
        ),
    ]


def figures_without_bytecode(runs: dict[str, Runs]) -> list[Figure]:
    """Return the lines with nothing compiled yet, as in a new container."""
    return [
        Figure(
            what=f"{what}, no bytecode cached",
            ours=runs[f"ours {key}"].milliseconds,
            unit="ms",
            beside=time_of(runs, f"existing {key}"),
        )
        for key, what in (
            ("import", '`python -c "import vibetuner"`'),
            ("help", "`vibetuner --help`"),
        )
    ]


def time_of(runs: dict[str, Runs], name: str) -> float | None:
    """Return the median, if it was measured."""
    return runs[name].milliseconds if name in runs else None
