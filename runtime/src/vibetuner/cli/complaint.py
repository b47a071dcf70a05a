"""How an error reaches the person at the command line: one line, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from vibetuner.errors import VibetunerError, mask_secrets

__all__ = ["complaining", "find_known"]


@contextmanager
def complaining() -> Iterator[None]:
    """Exit with one line about what goes wrong inside; DEBUG shows where a surprise came from."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as error:
        if (code := _asked_to_end(error)) is not None:
            sys.exit(code)
        if not isinstance(error, Exception):
            raise
        known = find_known(error)
        if known is None and os.environ.get("DEBUG", "").lower() in {"1", "true", "yes", "on"}:
            raise
        print(f"error: {mask_secrets(str(known or _surprise(error)))}", file=sys.stderr)
        sys.exit(known.exit_code if known else 1)


def find_known(error: BaseException | None) -> VibetunerError | None:
    """The error of ours behind ``error``: itself, one in its group, or its cause."""
    while error is not None:
        if isinstance(error, VibetunerError):
            return error
        if isinstance(error, BaseExceptionGroup):
            return next(filter(None, map(find_known, error.exceptions)), None)
        error = error.__cause__
    return None


def _asked_to_end(error: BaseException) -> int | None:
    """The exit code of a signal that met a start in the middle of a task group; else None."""
    if not isinstance(error, BaseExceptionGroup):
        return None
    end: BaseException | None = error.subgroup((SystemExit, KeyboardInterrupt))
    while isinstance(end, BaseExceptionGroup):
        end = end.exceptions[0]
    if isinstance(end, SystemExit):
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return None if end is None else 130


def _surprise(error: Exception) -> str:
    message = str(error).splitlines()[0] if str(error) else "no message"
    return f"{type(error).__name__}: {message} (set DEBUG=true to see where)"
