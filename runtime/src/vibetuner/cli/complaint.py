"""Ends commands: an error is one line and an exit code, and threads don't hold the process."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TextIO, TypeVarTuple

from vibetuner.errors import VibetunerError, first_line, mask_secrets
from vibetuner.logs import open_standard_files

logger = logging.getLogger(__name__)

Args = TypeVarTuple("Args")

# The exit code that a shell reports for a program that SIGPIPE ended.
READER_GONE = 141
LEAVE_SECONDS = 1.0
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def complaining() -> Iterator[None]:
    """Turn an exception in the block into one line and an exit code; DEBUG shows its traceback.

    If the output goes to a pipe whose reader has gone, as with ``| head -1``, exit quietly. What
    started this process may have closed its standard files, or block the signals that stop it.
    """
    open_standard_files()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    code = 0
    try:
        with _complaining(sys.stderr):  # imported code may replace sys.stderr
            yield
    except SystemExit as end:
        code = _code_of(end)
        raise
    finally:
        if _threads():
            leave_soon(code, after=threading.main_thread())


def run_in_loop(function: Callable[[*Args], Awaitable[None]], *args: *Args) -> None:
    """Run ``function`` to its end, in uvloop's event loop if it is installed.

    Once it has returned, threads don't keep the process for more than a second.
    """
    import anyio

    async def run() -> None:
        await function(*args)
        leave_soon(0)

    anyio.run(run, backend_options={"use_uvloop": find_spec("uvloop") is not None})


def leave_soon(code: int, *, after: threading.Thread | None = None) -> None:
    """End the process with ``code`` if, a second after ``after`` has ended, threads still run.

    Python would wait for them, and those of sync tasks and of the project's can't be stopped.
    """
    threading.Thread(target=_leave, args=(code, after), daemon=True, name="leave").start()


def _leave(code: int, after: threading.Thread | None) -> None:
    if after is not None:
        after.join()
    time.sleep(LEAVE_SECONDS)
    if running := _threads():
        logger.warning("leaving without threads that still run: %s", ", ".join(running))
        logging.shutdown()
        os._exit(code)


def _threads() -> list[str]:
    """Return the names of the threads that Python waits for at its end."""
    main = threading.main_thread()
    return [one.name for one in threading.enumerate() if not one.daemon and one is not main]


@contextmanager
def _complaining(stderr: TextIO) -> Iterator[None]:
    try:
        try:
            yield
        finally:
            _write_the_rest()
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as raised:
        if _has_broken_pipe(raised) and reader_is_gone():
            _discard_output()
            sys.exit(READER_GONE)
        error = raised
        if isinstance(raised, SystemExit) and isinstance(raised.__context__, BrokenPipeError):
            error = raised.__context__  # behind typer's silent exit, as if it were always stdout's
        if (code := _asked_to_end(error)) is not None:
            sys.exit(code)
        if not isinstance(error, Exception):
            raise
        known = find_known(error)
        if known is None and os.environ.get("DEBUG", "").lower() in {"1", "true", "yes", "on"}:
            raise
        from vibetuner.cli.console import one_line

        line = f"error: {one_line(mask_secrets(str(known or _surprise(error))))}\n"
        with suppress(OSError):
            if stderr.closed:
                os.write(2, line.encode())
            else:
                print(line, end="", file=stderr)
        sys.exit(known.exit_code if known else 1)


def reader_is_gone() -> bool:
    """Return whether stdout is a pipe whose other end is closed."""
    if sys.__stdout__ is None or sys.__stdout__.closed:
        return False
    poll = select.poll()
    poll.register(sys.__stdout__.fileno(), 0)  # errors and hang-ups are always reported
    return bool(poll.poll(0))


def _write_the_rest() -> None:
    """Flush stdout here, as a failure at the interpreter's exit would print a traceback."""
    if sys.__stdout__ is None or sys.__stdout__.closed:
        return
    try:
        sys.__stdout__.flush()
    except BrokenPipeError:
        raise
    except OSError:
        _discard_output()
        raise


def _discard_output() -> None:
    """Discard the output that is still buffered."""
    if sys.__stdout__ is None or sys.__stdout__.closed:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.__stdout__.fileno())
    os.close(nowhere)


def _has_broken_pipe(error: BaseException | None) -> bool:
    """Look in exception groups, and behind the exit that typer raises for a broken pipe."""
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        if isinstance(error, BaseExceptionGroup):
            return any(map(_has_broken_pipe, error.exceptions))
        error = error.__cause__ or error.__context__
    return False


def find_known(error: BaseException | None) -> VibetunerError | None:
    """Return our error behind ``error``: itself, one in its group, or its cause."""
    while error is not None:
        if isinstance(error, VibetunerError):
            return error
        if isinstance(error, BaseExceptionGroup):
            return next(filter(None, map(find_known, error.exceptions)), None)
        error = error.__cause__
    return None


def _asked_to_end(error: BaseException) -> int | None:
    """Return the exit code of a signal that interrupted a start in a task group; else None."""
    if not isinstance(error, BaseExceptionGroup):
        return None
    end: BaseException | None = error.subgroup((SystemExit, KeyboardInterrupt))
    while isinstance(end, BaseExceptionGroup):
        end = end.exceptions[0]
    if isinstance(end, SystemExit):
        return _code_of(end)
    return None if end is None else 130


def _code_of(end: SystemExit) -> int:
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def _surprise(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = f" to {error.filename}" if error.filename else ""
        return f"Nothing more can be written{where}: {error.strerror}. Make room, and try again"
    if isinstance(error, EOFError) and "marshal" in str(error):
        # Python writes such files in part where the disk is full, and reads them ever after.
        return (
            "A compiled file of Python is cut off, perhaps by a full disk. Make room, and run:  "
            "find . -name '*.pyc' -delete"
        )
    while isinstance(error, ExceptionGroup):  # whose own message says nothing
        error = error.exceptions[0]
    message = first_line(error, "no message")
    return f"{type(error).__name__}: {message} (set DEBUG=true to see where)"
