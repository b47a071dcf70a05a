"""Logging: one line for each event, as text on a terminal and as JSON in production."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from json.encoder import encode_basestring as quote
from typing import TYPE_CHECKING, Any, TextIO

from vibetuner.errors import VibetunerError, first_line, mask_secrets

if TYPE_CHECKING:
    from types import FrameType

# A logger that is never used: it is disabled only if all that existed were.
UNUSED = logging.getLogger(__name__)

# Returns the id of the task that runs here; set once for all tasks of a worker.
task_id_source: ContextVar[Callable[[], str]] = ContextVar("task_id_source", default=str)

COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
# Our own lines report the important parts of theirs. SQLAlchemy names a pool's logger after its
# class.
CHATTY = (
    *("uvicorn.error", "httpx2", "httpcore2", "watchfiles", "coredis", "pymongo", "alembic"),
    "vibetuner.resources.sql_engine.Pool",
)
# Modules whose frames a reader of a task's traceback need not see.
MACHINERY = frozenset(
    ("vibetuner", "streaq", "anyio", "asyncio", "concurrent", "contextlib", "threading")
).union(("fastapi", "starlette", "uvicorn"))


def configure_logging(
    *, debug: bool, as_json: bool, process: str = "", stream: TextIO | None = None
) -> None:
    """Send every log record of the process to ``stream`` (stderr), one line each.

    Args:
        debug: show debug lines of the project and of vibetuner.
        as_json: write one JSON object a line, for machines.
        process: this process's name among its siblings, for JSON lines.
        stream: the output; coloured only on a terminal.
    """
    stream = stream or sys.stderr
    handler = LineHandler(stream)
    colourful = is_colourful(stream)
    handler.setFormatter(JsonFormatter(process) if as_json else TextFormatter(colourful))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("vibetuner").setLevel(logging.DEBUG if debug else logging.INFO)
    # Our worker logs each event of a task once, with its id; streaq's own lines would repeat it.
    logging.getLogger("streaq").setLevel(logging.CRITICAL)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)


def enable_loggers() -> None:
    """Enable our loggers again if ``logging.config`` has disabled all that existed."""
    if not UNUSED.disabled:
        return
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("vibetuner.") and isinstance(logger, logging.Logger):
            logger.disabled = False


def is_colourful(stream: TextIO) -> bool:
    """Return whether to use colour: on a terminal or with FORCE_COLOR, and never with NO_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def open_standard_files() -> None:
    """Open what is closed of stdin, stdout and stderr, as /dev/null.

    Otherwise a connection would get its number: libuv aborts when it closes that, and log lines
    would be sent to a server.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, f"__{name}__") is None:
            stream = open(number, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


class TaskLogger:
    """Logs the lines that every task has, at a fraction of the cost of ``logger.info``.

    If JSON lines are the logger's only output, each line is formatted directly, without a record.
    Any other handler, filter or record factory gets an ordinary record.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, task_id: str, message: str, *args: object) -> None:
        """Log a line of a task."""
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        output = _json_output(logger)
        if output is None:
            logger.info(message, *args, extra={"task_id": task_id})
        else:
            handler, formatter = output
            handler.emit_line(
                formatter.line(time.time(), "info", logger.name, message % args, task_id)
            )


def _json_output(logger: logging.Logger) -> tuple[LineHandler, JsonFormatter] | None:
    """Return the handler and its formatter if JSON lines are the logger's only output."""
    if logger.filters or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    while not logger.handlers and logger.propagate and logger.parent is not None:
        logger = logger.parent
    if logger.parent is not None or len(logger.handlers) != 1:
        return None
    handler = logger.handlers[0]
    formatter = handler.formatter
    if type(handler) is not LineHandler or type(formatter) is not JsonFormatter:
        return None
    return None if handler.filters or handler.level > logging.INFO else (handler, formatter)


class _Held(threading.local):
    """The lines that this thread collects. A task that it creates meanwhile must not collect."""

    lines: list[tuple[LineHandler, str]] | None = None


_held = _Held()


@contextmanager
def together() -> Iterator[None]:
    """Collect the lines logged in the block, which must not await, and write them at its end."""
    held: list[tuple[LineHandler, str]] = []
    _held.lines, before = held, _held.lines
    try:
        yield
    finally:
        _held.lines = before
        for handler in {handler for handler, _ in held}:
            handler.write("".join(line for of, line in held if of is handler))


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each record to its stream as a whole line, and flushes."""

    def handle(self, record: logging.LogRecord) -> Any:
        """Write a record; call the filters only if the handler has some."""
        if self.filters:
            return super().handle(record)
        try:
            self.emit_line(self.format(record))
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - logging's own way
            self.handleError(record)
        return True

    def emit_line(self, line: str) -> None:
        """Write a line, or keep it for the end of :func:`together`."""
        if (held := _held.lines) is not None:
            held.append((self, f"{line}\n"))
        else:
            self.write(f"{line}\n")

    def write(self, lines: str) -> None:
        """Write whole lines."""
        assert self.lock is not None  # noqa: S101 - it has one from the beginning
        with self.lock:
            self.stream.write(lines)
            self.stream.flush()


class _Clock:
    """Formats times; each second is formatted once."""

    def __init__(self, form: str, zone: tzinfo | None) -> None:
        self._form = form
        self._zone = zone
        self._second = -1
        self._text = ""

    def read(self, moment: float) -> str:
        """Return the formatted second of a time."""
        second = int(moment)
        if second != self._second:
            self._text = datetime.fromtimestamp(second, self._zone).strftime(self._form)
            self._second = second
        return self._text


def log_sparingly(
    logger: logging.Logger, most: int = 1, prefixes: tuple[str, ...] = (), *, seconds: float = 60.0
) -> None:
    """Let a logger repeat a message a few times a minute, and count those that it suppresses.

    A second call for the same logger replaces the first.

    Args:
        logger: a logger whose messages strangers can cause as often as they like.
        most: how often a message may be logged within ``seconds``, whatever its arguments.
        prefixes: the beginnings of messages to suppress; by default, all messages.
        seconds: the period.
    """
    for former in [one for one in logger.filters if isinstance(one, _Sparingly)]:
        logger.removeFilter(former)
    logger.addFilter(_Sparingly(most, prefixes, seconds))


class _Sparingly(logging.Filter):
    def __init__(self, most: int, prefixes: tuple[str, ...], seconds: float) -> None:
        super().__init__()
        self._most, self._prefixes, self._seconds = most, prefixes, seconds
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Suppress the record, or let it pass with the number of suppressed ones."""
        message = str(record.msg)
        key = next((one for one in self._prefixes if message.startswith(one)), "")
        if not self._prefixes:
            key = message
        elif not key:
            return True
        since, count = self._seen.get(key, (record.created, 0))
        if record.created - since < self._seconds:
            self._seen[key] = since, count + 1
            return count < self._most
        self._seen[key] = record.created, 1
        if count > self._most:
            record.msg = f"{message} (and {count - self._most} more like it)"
        return True


class TextFormatter(logging.Formatter):
    """``12:00:00 INFO tasks  [7f3a…] export_orders done in 4.2 s``."""

    def __init__(self, colourful: bool) -> None:
        super().__init__()
        self._colourful = colourful
        self._clock = _Clock("%H:%M:%S", None)

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, followed by the traceback if there is one."""
        task = _task_of(record)
        message = mask_secrets(" ".join(_message_of(record).splitlines()))
        moment = self._clock.read(record.created)
        line = f"{moment} {record.levelname:<7} {f'[{task[:8]}] ' if task else ''}{message}"
        if record.exc_info and record.exc_info[1]:
            line = f"{line}\n{format_traceback(record.exc_info[1])}"
        if record.stack_info:
            line = f"{line}\n{mask_secrets(record.stack_info)}"
        colour = COLOURS.get(record.levelname)
        return f"\x1b[{colour}m{line}\x1b[0m" if self._colourful and colour else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, process, task_id, traceback.

    A line logged with ``stack_info=True`` has ``stack_info`` too.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = f', "process": {quote(process)}' if process else ""
        self._clock = _Clock("%Y-%m-%dT%H:%M:%S", UTC)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        level, message = record.levelname.lower(), _message_of(record)
        line = self.line(record.created, level, record.name, message, _task_of(record))
        if record.exc_info and record.exc_info[1]:
            line = f'{line[:-1]}, "traceback": {quote(format_traceback(record.exc_info[1]))}}}'
        if record.stack_info:
            line = f'{line[:-1]}, "stack_info": {quote(mask_secrets(record.stack_info))}}}'
        return line

    def line(self, moment: float, level: str, name: str, message: str, task: str | None) -> str:
        """Return one object; formatted by hand for speed, as a worker writes one for each task."""
        line = (
            f'{{"time": "{self._clock.read(moment)}.{int(moment % 1 * 1000):03d}+00:00", '
            f'"level": "{level}", "logger": {quote(name)}, '
            f'"message": {quote(mask_secrets(message))}{self._process}'
        )
        return f'{line}, "task_id": {quote(task)}}}' if task else f"{line}}}"


def _message_of(record: logging.LogRecord) -> str:
    """Return the message; without its arguments, and with the line's place, if they don't fit."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - an argument's own str() can raise anything
        place = f"{record.pathname}:{record.lineno}"
        return f"{record.msg} (the arguments don't fit: {place}: {first_line(error)})"


def _task_of(record: logging.LogRecord) -> str | None:
    """Return the task that a line is about: the one it names, else the one that runs."""
    named: object = record.__dict__.get("task_id")  # a project may give a number
    return task_id_source.get()() if named is None or named == "" else str(named)


def format_traceback(error: BaseException) -> str:
    """Return the traceback from the first line of the project's own code.

    An error of ours names its reason and its cure, so of its traceback only the project's lines
    are left, and of its causes those that its message does not contain.
    """
    trace = error.__traceback__
    while trace and trace.tb_next and is_machinery(trace.tb_frame):
        trace = trace.tb_next
    if not isinstance(error, VibetunerError) or any(map(_own_frames, _causes(error))):
        return mask_secrets("".join(traceback.format_exception(type(error), error, trace)).rstrip())
    lines = ["".join(traceback.format_exception_only(error)).rstrip()]
    if frames := _own_frames(error) or traceback.extract_tb(trace):
        lines[:0] = ["Traceback (most recent call last):", "".join(frames.format()).rstrip()]
    told = str(error)
    lines += [
        f"caused by {type(cause).__name__}: {first_line(cause)}"
        for cause in _causes(error)
        if first_line(cause) not in told
    ]
    return mask_secrets("\n".join(lines))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that a traceback shows before this one, the nearest first."""
    seen = {id(error)}
    while following := error.__cause__ or (
        None if error.__suppress_context__ else error.__context__
    ):
        if id(following) in seen:
            return
        seen.add(id(following))
        yield (error := following)


def _own_frames(error: BaseException) -> traceback.StackSummary:
    """Return the frames that are neither ours nor a library's."""
    found = traceback.walk_tb(error.__traceback__)
    return traceback.StackSummary.extract(
        (frame, line) for frame, line in found if not (is_machinery(frame) or _is_library(frame))
    )


def _is_library(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", "")).split(".", 1)[0]
    place = frame.f_code.co_filename
    return module in sys.stdlib_module_names or "-packages" in place or place.startswith("<")


def is_machinery(frame: FrameType) -> bool:
    """Return whether a frame is ours or a framework's, which readers of tracebacks can skip."""
    module = str(frame.f_globals.get("__name__", "")).split(".", 1)[0]
    return module in MACHINERY
