"""Logging: one line an event, for people on a terminal and as JSON in production."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["configure_logging", "current_task", "is_colourful", "is_machinery"]

current_task: ContextVar[str | None] = ContextVar("current_task", default=None)

COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
# Whoever calls a task through these is no news to the person who reads its traceback.
MACHINERY = frozenset(
    ("vibetuner", "streaq", "anyio", "asyncio", "concurrent", "contextlib", "threading")
).union(("fastapi", "starlette", "uvicorn"))


def configure_logging(
    *, debug: bool, as_json: bool, process: str = "", stream: TextIO | None = None
) -> None:
    """Send every log record of the process to ``stream`` (stderr), one line each.

    Args:
        debug: show debug lines of the project and of vibetuner.
        as_json: one JSON object a line, for machines.
        process: this process's name among its siblings; JSON lines carry it.
        stream: where to; colour only when it is a terminal.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    colourful = is_colourful(stream)
    handler.setFormatter(JsonFormatter(process) if as_json else TextFormatter(colourful))
    handler.addFilter(_add_task_id)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("vibetuner").setLevel(logging.DEBUG if debug else logging.INFO)
    # Our worker reports each event of a task once, with its id; the engine would say it again.
    logging.getLogger("streaq").setLevel(logging.CRITICAL)
    for chatty in ("uvicorn.error", "httpx2", "httpcore2", "watchfiles", "coredis", "pymongo"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def is_colourful(stream: TextIO) -> bool:
    """Whether to colour: on a terminal, or where FORCE_COLOR asks; never where NO_COLOR forbids."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def _add_task_id(record: logging.LogRecord) -> bool:
    record.task_id = current_task.get()
    return True


class TextFormatter(logging.Formatter):
    """``12:00:00 INFO tasks  [7f3a…] export_orders done in 4.2 s``."""

    def __init__(self, colourful: bool) -> None:
        super().__init__()
        self._colourful = colourful

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")  # noqa: DTZ006 - local
        task = getattr(record, "task_id", None)
        message = " ".join(record.getMessage().splitlines())
        line = f"{time} {record.levelname:<7} {f'[{task[:8]}] ' if task else ''}{message}"
        if record.exc_info and record.exc_info[1]:
            line = f"{line}\n{format_traceback(record.exc_info[1])}"
        colour = COLOURS.get(record.levelname)
        return f"\x1b[{colour}m{line}\x1b[0m" if self._colourful and colour else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, process, task_id, traceback."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._quote = json.JSONEncoder(ensure_ascii=False).encode
        self._process = f', "process": {self._quote(process)}' if process else ""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; put together by hand, as a worker writes two of them for a task."""
        quote = self._quote
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = (
            f'{{"time": "{time}", "level": "{record.levelname.lower()}", '
            f'"logger": {quote(record.name)}, "message": {quote(record.getMessage())}'
            f"{self._process}"
        )
        if task := getattr(record, "task_id", None):
            line += f', "task_id": {quote(task)}'
        if record.exc_info and record.exc_info[1]:
            line += f', "traceback": {quote(format_traceback(record.exc_info[1]))}'
        return f"{line}}}"


def format_traceback(error: BaseException) -> str:
    """The traceback from the first line that is the project's own."""
    trace = error.__traceback__
    while trace and trace.tb_next and is_machinery(trace.tb_frame):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def is_machinery(frame: FrameType) -> bool:
    """Whether a frame is ours or a framework's, and no news to who reads about a task."""
    module = str(frame.f_globals.get("__name__", "")).split(".", 1)[0]
    return module in MACHINERY
