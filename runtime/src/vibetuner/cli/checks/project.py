"""The project itself: tune.py, its tasks, its settings."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import SecretStr

from vibetuner.cli.checks.finding import Finding, Level, of_message
from vibetuner.config import Settings
from vibetuner.errors import VibetunerError
from vibetuner.loader import load_project
from vibetuner.project import ProjectInfo
from vibetuner.tasks.registry import find_problems, find_warnings, import_tasks
from vibetuner.tasks.worker import get_worker

__all__ = ["check_settings", "check_tune"]

ENOUGH = 32
FRESH_KEY = 'python -c "import secrets; print(secrets.token_urlsafe(48))"'
WEAK = ("change", "secret", "example", "password", "test", "xxx")


def check_tune(project: ProjectInfo) -> list[Finding]:
    """Whether tune.py loads, and lists just the tasks that are decorated."""
    try:
        app = load_project()
        import_tasks(project)
    except VibetunerError as error:
        return [of_message("project", str(error))]
    except Exception as error:  # noqa: BLE001 - a task of the same name twice, say
        return [Finding("error", "project", f"{type(error).__name__}: {error}", "correct it")]
    worker = get_worker()
    problems = find_problems(app, worker)
    if problems:
        return [of_message("tasks", problem) for problem in problems]
    return [
        Finding("ok", "project", f"{project.name}: {len(worker.registry)} tasks in tune.py"),
        *(Finding("warning", "tasks", *text.split("; ")) for text in find_warnings(worker)),
    ]


def check_settings(settings: Settings) -> Iterator[Finding]:
    """What is missing, weak, or not meant for production."""
    in_production = settings.environment == "production"
    grave: Level = "error" if in_production else "warning"
    if in_production and settings.debug:
        yield Finding("error", "settings", "DEBUG is set in production", "set DEBUG=false")
    if settings.secret_key is None:
        yield Finding(
            "error" if in_production else "note",
            "settings",
            "SECRET_KEY is empty; development signs with a key of its own",
            f"make one with:  {FRESH_KEY}",
        )
    elif _is_weak(settings.secret_key, ENOUGH):
        yield Finding(grave, "settings", "SECRET_KEY is weak", f"make one with:  {FRESH_KEY}")
    if settings.debug_access_token is None:
        if in_production:
            yield Finding(
                "note",
                "settings",
                "DEBUG_ACCESS_TOKEN is empty: nobody can open /debug",
                f"make one with:  {FRESH_KEY}",
            )
    elif _is_weak(settings.debug_access_token, 16):
        yield Finding(
            grave, "settings", "DEBUG_ACCESS_TOKEN is weak", f"make one with:  {FRESH_KEY}"
        )
    if settings.redis_url is None:
        yield Finding(
            "warning",
            "settings",
            "Background tasks: Redis not configured",
            "add to .env:  REDIS_URL=redis://localhost:6379",
        )


def _is_weak(secret: SecretStr, enough: int) -> bool:
    text = secret.get_secret_value()
    return len(text) < enough or len(set(text)) < 10 or text.lower().startswith(WEAK)
