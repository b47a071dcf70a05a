"""Logging: one line per event, for people or for machines."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from io import StringIO
from uuid import UUID

import anyio
import pytest

from vibetuner.errors import ServiceUnavailable
from vibetuner.logs import (
    LineHandler,
    TaskLogger,
    configure_logging,
    is_colourful,
    log_sparingly,
    task_id_source,
    together,
)

logger = logging.getLogger("shop.orders")


class Terminal(StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before(fresh: None) -> Iterator[None]:
    """Restore pytest's handlers and levels, which configuring replaces."""
    names = [None, "vibetuner", "streaq", "pymongo", "coredis", "watchfiles", "uvicorn.error"]
    names += ["httpx2", "httpcore2"]
    loggers = [logging.getLogger(name) for name in names]
    levels, handlers = [one.level for one in loggers], list(loggers[0].handlers)
    # force=True closes what it replaces, and pytest's own handlers must live on.
    loggers[0].handlers.clear()
    yield
    loggers[0].handlers[:] = handlers
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


def log_to(stream: StringIO, **options: bool | str) -> StringIO:
    configure_logging(**{"debug": False, "as_json": False, "stream": stream, **options})
    return stream


def test_a_line_has_time_level_and_message():
    """A line has time, level and message, and no line break inside."""
    out = log_to(StringIO())

    logger.info("order %s\nis paid", 7)

    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    order 7 is paid\n", out.getvalue())


def test_a_line_of_a_task_has_its_id():
    """A line of a task has the first eight characters of its id."""
    out = log_to(StringIO())
    token = task_id_source.set(lambda: "0123456789abcdef")

    logger.info("working")

    task_id_source.reset(token)
    logger.info("idle")
    assert "INFO    [01234567] working\n" in out.getvalue()
    assert "INFO    idle\n" in out.getvalue()


def test_in_production_a_line_is_a_json_object():
    """A line in production is a JSON object, with the process and the whole task id."""
    out = log_to(StringIO(), as_json=True, process="worker-2")
    token = task_id_source.set(lambda: "0123456789abcdef")

    logger.warning("größer\nals \x1b[31mrot")

    task_id_source.reset(token)
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert datetime.fromisoformat(entry.pop("time")).utcoffset() == timedelta(0)
    assert entry == {
        "level": "warning",
        "logger": "shop.orders",
        "message": "größer\nals \x1b[31mrot",
        "process": "worker-2",
        "task_id": "0123456789abcdef",
    }


@pytest.mark.parametrize("factory", [logging.LogRecord, type("Own", (logging.LogRecord,), {})])
def test_a_task_logger_logs_what_the_logger_would(factory: type[logging.LogRecord]):
    """TaskLogger logs the same record as a logger would, with the id of the task that it names.

    Handlers of other kinds receive that record, too.
    """
    out = log_to(StringIO(), as_json=True)
    heard: list[logging.LogRecord] = []
    other = logging.Handler()
    other.emit = heard.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(other)
    token = task_id_source.set(lambda: "another")
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(factory)
    try:
        TaskLogger(logger).info("0123456789abcdef", "%s done in %d %%", "bill", 7)
        logger.info("%s done in %d %%", "bill", 7, extra={"task_id": "0123456789abcdef"})
    finally:
        logging.setLogRecordFactory(before)
        task_id_source.reset(token)
        logging.getLogger().removeHandler(other)

    said, logged = (json.loads(line) for line in out.getvalue().splitlines())
    assert said.pop("time") <= logged.pop("time")
    assert said == logged
    assert said["task_id"] == "0123456789abcdef"
    assert vars(heard[0]).keys() == vars(heard[1]).keys()


def test_a_task_logger_writes_what_a_logger_writes():
    """TaskLogger writes the same JSON line as a logger would, with secrets masked."""
    out = log_to(StringIO(), as_json=True, process="worker")

    TaskLogger(logger).info("0123456789abcdef", "%s with %s", "bill", "redis://:secret@host")
    logger.info("%s with %s", "bill", "redis://:secret@host", extra={"task_id": "0123456789abcdef"})

    said, logged = (json.loads(line) for line in out.getvalue().splitlines())
    assert said.pop("time") <= logged.pop("time")
    assert said == logged
    assert "secret" not in said["message"]


def test_a_task_logger_is_silent_where_its_logger_is():
    """TaskLogger obeys the level of the loggers above its own, and that of the handler."""
    out = log_to(StringIO(), as_json=True)
    logging.getLogger("shop").setLevel(logging.WARNING)
    try:
        TaskLogger(logger).info("0123456789abcdef", "hello")
    finally:
        logging.getLogger("shop").setLevel(logging.NOTSET)
    logging.getLogger().handlers[0].setLevel(logging.WARNING)
    TaskLogger(logger).info("0123456789abcdef", "hello")

    assert not out.getvalue()


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("task_id", [0, 7, UUID(int=7)])
def test_a_project_may_name_tasks_of_its_own(as_json: bool, task_id: object):
    """A line that names a task by something other than a text is written with that."""
    out = log_to(StringIO(), as_json=as_json)

    logger.info("ticked off", extra={"task_id": task_id})

    shown = f'"task_id": "{task_id}"' if as_json else f"[{str(task_id)[:8]}] ticked off"
    assert shown in out.getvalue()


def test_lines_that_are_logged_together_are_written_in_one_piece():
    """Lines logged inside `together()` are written in one piece at its end, even if it raises."""
    written: list[str] = []

    class Stream(StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    log_to(Stream())
    with suppress(ValueError), together():
        logger.info("one")
        logger.warning("two")
        assert not written
        raise ValueError
    logger.info("three")

    assert [re.findall("one|two|three", text) for text in written] == [["one", "two"], ["three"]]


async def test_a_task_that_starts_inside_together_logs_after_its_end():
    """A task or a thread that is started inside `together()` writes its own lines, and at once."""
    out = log_to(StringIO())
    with together():
        later = asyncio.create_task(_say("one"))
        thread = asyncio.ensure_future(asyncio.to_thread(logger.info, "two"))
    await asyncio.gather(later, thread)

    assert sorted(re.findall("one|two", out.getvalue())) == ["one", "two"]


async def _say(word: str) -> None:
    logger.info(word)


def test_a_json_line_leaves_out_missing_values():
    """A JSON line has no task id outside a task, and no process name if none was given."""
    out = log_to(StringIO(), as_json=True)

    logger.info("hello")

    assert set(json.loads(out.getvalue())) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_traceback_is_written_once_and_begins_in_the_projects_code(as_json: bool):
    """A traceback is written once, and begins in the project's code."""
    out = log_to(StringIO(), as_json=as_json)

    async def pay() -> None:
        raise ValueError("no money")

    try:
        anyio.run(pay)
    except ValueError:
        logger.exception("failed")

    text = json.loads(out.getvalue())["traceback"] if as_json else out.getvalue()
    assert text.count("ValueError: no money") == 1
    assert text.count("Traceback") == 1
    assert 'test_logs.py", line' in text
    if as_json:
        assert len(out.getvalue().splitlines()) == 1


def test_the_machinery_around_a_task_is_left_out_of_its_traceback():
    """A traceback contains no frame of the engine above the project's."""
    out = log_to(StringIO())
    scope = {"__name__": "streaq.worker"}
    exec("def run_task(function):\n    function()\n", scope)  # a frame as the engine's are

    def pay() -> None:
        raise ValueError("no money")

    try:
        scope["run_task"](pay)
    except ValueError as error:
        logger.error("failed", exc_info=error.with_traceback(error.__traceback__.tb_next))

    assert "run_task" not in out.getvalue()
    assert "in pay" in out.getvalue()


@pytest.mark.parametrize("is_in_message", [True, False])
def test_an_error_of_ours_has_one_traceback_of_the_projects_lines(is_in_message: bool):
    """An error of ours has one traceback, without its causes in libraries.

    The cause becomes a line if the error's own message lacks it.
    """
    out = log_to(StringIO())
    reason = "Connect call failed" if is_in_message else "no answer"
    driver = {"__name__": "asyncpg.connection"}
    code = "def connect():\n    raise OSError('Connect call failed')\n"
    exec(compile(code, "/venv/site-packages/asyncpg/connection.py", "exec"), driver)
    library = {"__name__": "vibetuner.resources.sql", "unavailable": ServiceUnavailable(reason)}
    library |= {"connect": driver["connect"]}
    exec(
        "def open_session():\n try:\n  connect()\n except OSError as e:\n"
        "  raise unavailable from e",
        library,
    )

    def pay() -> None:
        library["open_session"]()

    try:
        pay()
    except ServiceUnavailable:
        logger.exception("failed")

    text = out.getvalue()
    ending = [f"vibetuner.errors.ServiceUnavailable: {reason}"]
    ending += [] if is_in_message else ["caused by OSError: Connect call failed"]
    assert text.splitlines()[-len(ending) :] == ending
    assert text.count("Traceback") == 1
    assert "in pay" in text
    assert "in open_session" not in text
    assert "site-packages" not in text


def test_an_error_of_ours_keeps_a_cause_in_the_projects_code():
    """An error of ours keeps the traceback of a cause in the project's code."""
    out = log_to(StringIO())

    def pay() -> None:
        raise KeyError("till")

    try:
        try:
            pay()
        except KeyError as error:
            raise ServiceUnavailable("no till") from error
    except ServiceUnavailable:
        logger.exception("failed")

    assert out.getvalue().count("Traceback") == 2
    assert "in pay" in out.getvalue()


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch):
    """Terminals get colour; FORCE_COLOR overrides that, and NO_COLOR overrides both."""
    for stream in (StringIO(), Terminal()):
        log_to(stream)
        logger.error("red")
        logger.info("plain")
    assert "\x1b[31m" in stream.getvalue()
    assert stream.getvalue().count("\x1b[0m") == 1
    assert (is_colourful(StringIO()), is_colourful(Terminal())) == (False, True)

    monkeypatch.setenv("FORCE_COLOR", "1")
    assert is_colourful(StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_colourful(Terminal())


@pytest.mark.parametrize("debug", [False, True])
def test_debug_shows_our_lines_and_not_those_of_libraries(debug: bool):
    """DEBUG shows our debug lines, no line of the engine, and only warnings of drivers."""
    out = log_to(StringIO(), debug=debug)

    logging.getLogger("vibetuner.tasks").debug("ours")
    logging.getLogger("streaq").error("said twice")
    logging.getLogger("pymongo.command").info("chatter")
    logging.getLogger("pymongo").warning("trouble")

    assert ("ours" in out.getvalue()) == debug
    assert "said twice" not in out.getvalue()
    assert "chatter" not in out.getvalue()
    assert "trouble" in out.getvalue()


def test_a_message_that_strangers_repeat_is_counted():
    """A repeated message is written a few times per period; the next one counts the omitted."""
    own, stream = logging.getLogger("tests.sparing"), StringIO()
    own.propagate = False
    own.addHandler(handler := LineHandler(stream))
    log_sparingly(own, 5)
    log_sparingly(own, 2, ("refused", "late"), seconds=60)

    def log(message: str, at: float) -> None:
        record = own.makeRecord(own.name, logging.WARNING, "f", 1, message, (), None)
        record.created = at
        own.handle(record)

    try:
        for at in range(5):
            log("refused a visitor", at)
        log("late", 5)
        log("something else", 6)
        log("refused a visitor", 59.9)
        log("refused a visitor", 60)
        log("late", 65)
    finally:
        own.removeHandler(handler)
    assert stream.getvalue().splitlines() == [
        "refused a visitor", "refused a visitor", "late", "something else",
        "refused a visitor (and 4 more like it)", "late",
    ]  # fmt: skip


def test_a_line_that_cannot_be_formatted_stops_nothing(capsys: pytest.CaptureFixture[str]):
    """A line that can't be formatted is reported as by logging, and later lines are written.

    The filters of a handler apply.
    """
    stream = StringIO()
    own, handler = logging.getLogger("tests.broken"), LineHandler(stream)
    own.propagate = False
    own.addHandler(handler)
    try:
        own.warning("%d orders", "no number")
        handler.addFilter(lambda record: record.getMessage() != "left out")
        own.warning("left out")
        own.warning("kept")
    finally:
        own.removeHandler(handler)
    assert stream.getvalue() == "kept\n"
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_line_whose_arguments_do_not_fit_is_written_without_them(
    as_json: bool, capsys: pytest.CaptureFixture[str]
):
    """The line names its place and the reason; its arguments, which may be secret, aren't shown."""
    out = log_to(StringIO(), as_json=as_json)
    logger.warning("login of %s", *("ann", "hunter2"))
    text = json.loads(out.getvalue())["message"] if as_json else out.getvalue()
    assert "login of %s (the arguments don't fit: " in text
    assert "test_logs.py:" in text
    assert "not all arguments converted" in text
    assert "hunter2" not in out.getvalue() + capsys.readouterr().err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_stack_that_is_asked_for_is_written(as_json: bool):
    """``stack_info=True`` adds the calls that led to the line."""
    out = log_to(StringIO(), as_json=as_json)
    logger.info("here", stack_info=True)
    stack = json.loads(out.getvalue())["stack_info"] if as_json else out.getvalue()
    assert "in test_a_stack_that_is_asked_for_is_written" in stack
