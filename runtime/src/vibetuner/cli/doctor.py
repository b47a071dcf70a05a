"""``vibetuner doctor``: reports problems and their cures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vibetuner.cli.checks.finding import Finding

COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check the project, its settings, services and workers.

    Each problem is reported with its cure. Exit code 0 if there is no error, else 1.
    """
    from vibetuner.cli.checks.diagnosis import diagnose
    from vibetuner.cli.console import prepare_env_file

    prepare_env_file()
    findings = diagnose()
    if as_json:
        _print_json(findings)
    else:
        _print_lines(findings)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _print_json(findings: Sequence[Finding]) -> None:
    from dataclasses import asdict

    from vibetuner.cli.console import print_json

    healthy = not any(finding.level == "error" for finding in findings)
    print_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})


def _print_lines(findings: Sequence[Finding]) -> None:
    from vibetuner.cli.console import Console, one_line
    from vibetuner.errors import counted

    console = Console()
    for finding in findings:
        console.print(f"{finding.level:<7}", style=COLOURS[finding.level], end="  ")
        console.print(f"{finding.area:<12}", style="dim", end=" ")
        console.print(one_line(finding.text))
        if finding.cure:
            console.print(f"{'':<22} {one_line(finding.cure)}", style="green")
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    console.print(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
