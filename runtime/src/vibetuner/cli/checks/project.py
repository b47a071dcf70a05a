"""Checks of the project: tune.py and its tasks."""

from __future__ import annotations

from vibetuner.cli.checks import Finding, of_message
from vibetuner.errors import VibetunerError, counted, mask_secrets
from vibetuner.loader import load_project
from vibetuner.project import ProjectInfo
from vibetuner.tasks.registry import find_problems, find_warnings, import_tasks
from vibetuner.tasks.worker import get_worker


def check_tune(project: ProjectInfo) -> list[Finding]:
    """Check that tune.py loads, and lists exactly the tasks that are decorated."""
    try:
        app = load_project()
        import_tasks(project)
    except VibetunerError as error:
        return [of_message("project", mask_secrets(str(error)))]
    except Exception as error:  # noqa: BLE001 - a task of the same name twice, say
        text = mask_secrets(f"{type(error).__name__}: {error}")
        return [Finding("error", "project", text, "correct it")]
    worker = get_worker()
    problems = find_problems(app, worker)
    if problems:
        return [of_message("tasks", problem) for problem in problems]
    tasks = counted(len(worker.registry), "task")
    return [
        Finding("ok", "project", f"{project.name}: {tasks} in tune.py"),
        *(Finding("warning", "tasks", *text.split("; ")) for text in find_warnings(worker)),
    ]
