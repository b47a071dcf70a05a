"""How quick are the pages with 100,000 ended tasks and 10,000 dead letters?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from drain import make_project
from lab import Figure, workplace

from vibetuner.embedded import join

CHILD = Path(__file__).with_name("dashboard_child.py")
PAGES = {
    "overview": "overview",
    "list": "tasks, first page",
    "list_deep": "tasks, ten pages on",
    "failed": "failed tasks of one name",
    "task": "one ended task",
    "cron": "schedules",
    "dead": "dead letters by bug",
    "cli_list": "`vibetuner tasks list`, the look alone",
    "cli_stats": "`vibetuner tasks stats`, the look alone",
    "write": "one write of the journal, 100 ends",
}


def measure(*, beside: bool) -> list[Figure]:
    """The median of ten requests each, in one process, against streaq's own page of all tasks."""
    del beside
    folder = make_project()
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        done = subprocess.run(
            [sys.executable, CHILD, lease.urls["redis"]],
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    figures = [
        Figure(what=words, ours=times[name], unit="ms", beside=times["streaq"])
        if name == "list"
        else Figure(what=words, ours=times[name], unit="ms")
        for name, words in PAGES.items()
    ]
    return [
        *figures,
        Figure(what="memory of Redis for 100,000 ends", ours=times["memory"], unit="MB"),
    ]
