"""How quick is the dashboard with 100,000 ended tasks and 10,000 dead letters in place?"""

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
    "dead_bug": "dead letters of one bug",
    "dead_letter": "one dead letter's task",
    "dead_confirm": "the count before a group is retried",
    "cli_list": "`vibetuner tasks list`",
    "cli_failed": "`vibetuner tasks list --state failed --task NAME`",
    "cli_show": "`vibetuner tasks show ID`",
    "cli_why": "`vibetuner tasks why ID`",
    "cli_stats": "`vibetuner tasks stats`",
    "cli_dead": "`vibetuner dead-letters list`",
    "cli_letter": "`vibetuner dead-letters show ID`",
    "cli_health": "`vibetuner worker-health`",
    "cli_help": "`vibetuner tasks --help`",
    "cli_bare_help": "for comparison: `vibetuner --help`",
}
LETTERS = 1_000_000
LETTER_PAGES = {
    "letters_overview": "overview",
    "letters_dead": "dead letters by bug",
    "letters_bug": "dead letters of one bug",
    "letters_letter": "one dead letter's task",
    "letters_begins": "one dead letter's task, by the first characters of its id",
    "letters_confirm": "the count before a group is retried",
    "letters_confirm_all": "the count before all are discarded",
    "letters_list": "failed tasks",
    "letters_cli_list": "`vibetuner dead-letters list`",
    "letters_cli_task": "`vibetuner dead-letters list --task NAME`",
    "letters_cli_all": "`vibetuner dead-letters list --all`",
    "letters_cli_since": "`vibetuner dead-letters list --since 1h`, which looks at all of them",
    "letters_cli_count": "`vibetuner dead-letters count --cause CAUSE`",
    "letters_cli_show": "`vibetuner dead-letters show`, by the first 8 characters",
    "letters_cli_stats": "`vibetuner tasks stats`",
    "letters_cli_health": "`vibetuner worker-health`",
    "letters_cli_doctor": "`vibetuner doctor`",
}
AIMS = {"cli_list": "under 1000", "cli_health": "under 300"}


def measure(*, beside: bool) -> list[Figure]:
    """Measure pages in one process, beside streaq's own, and commands from start to end."""
    del beside
    folder = make_project()
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        times: dict[str, float] = {}
        for more in ([], ["letters", str(LETTERS)]):
            done = subprocess.run(
                [sys.executable, CHILD, lease.urls["redis"], *more],
                cwd=folder,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            times |= json.loads(done.stdout.splitlines()[-1])
    return [
        *(
            Figure(
                what=words,
                ours=times[name],
                unit="ms",
                aim=AIMS.get(name, "" if name.startswith("cli") else "under 500"),
                beside=times.get(f"streaq_{name}"),
            )
            for name, words in PAGES.items()
        ),
        Figure(what="one write of the journal, 100 ends", ours=times["write"], unit="ms"),
        Figure(what="memory of Redis for 100,000 ends", ours=times["memory"], unit="MB"),
        *(
            Figure(
                what=f"**{LETTERS:,} dead letters**: {words}",
                ours=times[name],
                unit="ms",
                aim="" if "_cli_" in name else "under 500",
            )
            for name, words in LETTER_PAGES.items()
        ),
        Figure(
            what=f"memory of Redis for {LETTERS:,} letters", ours=times["letters_memory"], unit="MB"
        ),
    ]
