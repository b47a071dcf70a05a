"""Runs all checks of the doctor, and prints what they find.

Checks that wait begin first, and run in threads. Imports take longest: drivers, and the project
with all that it uses. Meanwhile, threads wait for git, ports and services.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict

from vibetuner.cli.checks import Finding, of_message
from vibetuner.cli.checks.outside import PORTS, check_drift, check_port, check_version
from vibetuner.cli.console import Console, one_line, print_json
from vibetuner.cli.loading import import_coredis, loading
from vibetuner.errors import VibetunerError, counted
from vibetuner.project import ProjectInfo, project_info

# The services' head start: while a project is imported, an event loop is too busy to get replies.
ALONE_SECONDS = 1.0
COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


def diagnose() -> list[Finding]:
    """Return good and bad findings, in the order in which to fix them."""
    try:
        project = project_info()
        with ThreadPoolExecutor(thread_name_prefix="doctor") as pool:
            return _diagnose(project, pool)
    except VibetunerError as error:
        return [of_message("project", str(error))]


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> bool:
    """Print the findings; return whether no error is among them."""
    errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        print_json({"ok": not errors, "findings": [asdict(finding) for finding in findings]})
        return not errors
    console = Console()
    for finding in findings:
        console.print(f"{finding.level:<7}", style=COLOURS[finding.level], end="  ")
        console.print(f"{finding.area:<12}", style="dim", end=" ")
        console.print(one_line(finding.text))
        if finding.cure:
            console.print(f"{'':<22} {one_line(finding.cure)}", style="green")
    warnings = sum(finding.level == "warning" for finding in findings)
    console.print(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    return not errors


def _diagnose(project: ProjectInfo, pool: ThreadPoolExecutor) -> list[Finding]:
    checks = [
        check_version(project),
        check_drift(project),
        *(check_port(project, port, what) for port, what in PORTS.items()),
    ]
    # The checks are generators, which run in these threads.
    outside = [pool.submit(list[Finding], check) for check in checks]

    from vibetuner.config import get_settings

    settings = get_settings()

    with loading():
        import_coredis()
        from vibetuner.cli.checks.services import (
            check_services,
            check_tables,
            check_tune,
            check_unset,
            load_drivers,
        )
        from vibetuner.cli.checks.settings import check_limits, check_settings

        load_drivers(settings)
    services = pool.submit(lambda: asyncio.run(check_services(settings, project)))
    wait([services], ALONE_SECONDS)
    own = [*check_tune(project), *check_settings(settings), *check_limits(settings)]
    found = own + [one for part in (services, *outside) for one in part.result()]
    if all(one.level != "error" for one in found if one.area in {"project", "SQL database"}):
        found += [*check_unset(settings), *asyncio.run(check_tables(settings, project))]
    return found
