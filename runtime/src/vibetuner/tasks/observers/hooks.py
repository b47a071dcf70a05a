"""Calls ``on_error=`` for tries that failed, and ``on_failure=`` for dead letters."""

from __future__ import annotations

from streaq import StreaqRetry

from vibetuner.app import VibetunerApp
from vibetuner.errors import ErrorContext
from vibetuner.hooks import Hooks
from vibetuner.tasks.attempt import Attempt, End
from vibetuner.tasks.letters.letter import DeadLetter
from vibetuner.tasks.observers import Observer


class HookObserver(Observer):
    """Calls the project's hooks once an end is recorded; a superseded attempt calls none."""

    def __init__(self, app: VibetunerApp, hooks: Hooks) -> None:
        self._app = app
        self._hooks = hooks

    def ended(self, attempt: Attempt) -> None:
        """Call the hooks that the project has for this kind of end."""
        if attempt.end is not End.FAILED and attempt.end is not End.RETRYING:
            return
        error, app, name = attempt.error, self._app, attempt.fn_name
        # A task that asks to be tried again, without naming an error, has not failed.
        if app.on_error and error is not None and not isinstance(error, StreaqRetry):
            about = ErrorContext(
                name=name,
                task_id=attempt.task_id,
                tries=attempt.tries,
                is_final=attempt.end is End.FAILED,
            )
            self._hooks.call(f"on_error for {name}", app.on_error, error, about)
        if app.on_failure and attempt.letter:
            letter = DeadLetter.from_json(attempt.letter)
            self._hooks.call(f"on_failure for {name}", app.on_failure, letter)
