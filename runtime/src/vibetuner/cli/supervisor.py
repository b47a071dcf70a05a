"""Runs several processes as one: prefixed log lines, restarts, one Ctrl-C, nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import STDOUT, Process
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from watchfiles import awatch

from vibetuner.cli.complaint import READER_GONE
from vibetuner.logs import is_colourful
from vibetuner.timing import backoff

if TYPE_CHECKING:
    from vibetuner.cli.launch import Program

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 10.0
LAST_LINES_SECONDS = 1.0
# A program that fails this often in a row, each time soon after its start, is not restarted.
MOST_FAILURES = 6
# A process manager signals a whole group, and `uv run` forwards signals: within this time, they
# count as one.
ONE_SIGNAL_SECONDS = 1.0
NAME_COLOURS = ("36", "35", "32", "34")


class Supervisor:
    """Keeps programs running until a signal comes.

    With ``watch``, a change of a watched file, or of a Python file in a watched folder, restarts
    all programs, and a program that ended waits for the next change. Without it, a program that
    ended is restarted, after a longer pause each time; if it keeps failing, everything stops. A
    program that fails in its first seconds also stops everything: if one part can't start, the
    command fails at once.

    A program that has not ended ``patience`` seconds after a signal is killed.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        watch: Sequence[Path] = (),
        label: bool = True,
        patience: float = 55.0,
        pause: float = 0.5,
    ) -> None:
        self._programs = programs
        self._patience = patience
        self._pause = pause
        # A file is watched by its folder: an editor or `sed -i` puts a new file in its place.
        self._watch = [(path, path.is_dir()) for path in watch]
        self._running: dict[str, Process] = {}
        self._relaying: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._generation = 0
        self._code = 0
        self._signals = 0
        self._signalled = -ONE_SIGNAL_SECONDS
        self._label = label and len(programs) > 1
        self._told: set[str] = set()
        self._explained: set[str] = set()
        self._width = max(len(program.name) for program in programs)
        self._colourful = is_colourful(sys.stderr)

    async def run(self) -> int:
        """Run until everything has stopped; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup`
                loop.add_signal_handler(number, self._on_signal)
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(program)) for program in self._programs]
                for path, is_folder in self._watch:
                    group.create_task(self._reload_on_change(path, is_folder=is_folder))
                await asyncio.wait(keepers)
                self._stopping.set()
        finally:
            for one in self._relaying:
                one.cancel()
        return self._code

    def _on_signal(self) -> None:
        """Stop; a second signal, at least a second later, hurries, and a third one kills."""
        now = time.monotonic()
        if now - self._signalled < ONE_SIGNAL_SECONDS:
            return
        self._signalled = now
        self._signals += 1
        if self._signals == 1:
            logger.info("stopping; Ctrl-C again stops at once")
            self._stop()
        else:
            self._signal_all(signal.SIGTERM if self._signals == 2 else signal.SIGKILL)

    def _stop(self, code: int = 0) -> None:
        self._code = self._code or code
        self._stopping.set()
        self._changed.set()
        self._signal_all(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        loop.call_later(self._patience, self._signal_all, signal.SIGKILL)

    async def _keep(self, program: Program) -> None:
        failures = generation = 0
        while not self._stopping.is_set():
            if generation != self._generation:
                failures, generation = 0, self._generation
            began = time.monotonic()
            code = await self._run_once(program)
            if self._stopping.is_set():
                return
            if generation != self._generation:
                continue
            quick = time.monotonic() - began < SETTLE_SECONDS
            failures = failures + 1 if quick else 1
            await self._recover(program, code, failures, first=generation == 0 and quick)

    async def _recover(self, program: Program, code: int, failures: int, *, first: bool) -> None:
        ended = f"{program.name} {_how_it_ended(code)}"
        # A program that can't start exits by itself, and has logged why, unless its code has called
        # os._exit(); a killed one was able to run.
        if (first and code > 0 and failures == 1) or failures > MOST_FAILURES:
            if failures > 1:
                logger.info("%s, %d times in a row; giving up", ended, failures)
            elif program.name not in self._explained:
                logger.info("%s; stopping", ended)
            self._stop(code if code > 0 else 1)
            return
        wait = None
        if self._watch and code >= 0:
            logger.info("%s; waiting for a change", ended)
        else:
            wait = backoff(failures, self._pause, 30)
            logger.info("%s; starting it again in %g s", ended, wait)
        self._changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), wait)

    async def _run_once(self, program: Program) -> int:
        # A pipe of asyncio's own would make wait() wait for the end of the output, too.
        output, end = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *program.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=end,
            stderr=STDOUT,
            pass_fds=() if program.fd is None else (program.fd,),
            env={**os.environ, "FORCE_COLOR": "1"} if self._colourful else None,
            # Ctrl-C reaches only the supervisor, which stops its programs gracefully.
            start_new_session=True,
        )
        os.close(end)
        self._running[program.name] = process
        if self._stopping.is_set():
            process.terminate()
        relaying = asyncio.create_task(self._relay_output(program, output))
        self._relaying.add(relaying)
        relaying.add_done_callback(self._relaying.discard)
        try:
            code = await process.wait()
            # A process that it has started and left behind may keep its output open.
            await asyncio.wait([relaying], timeout=LAST_LINES_SECONDS)
            return code
        finally:
            del self._running[program.name]
            if process.returncode is None:  # the supervisor itself has failed
                process.kill()

    async def _relay_output(self, program: Program, output: int) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(output, "rb", 0)
        )
        with closing(transport):
            while line := await _read_line(stream):
                self._relay_line(program, line)

    def _relay_line(self, program: Program, line: bytes) -> None:
        prefix = self._prefix(program.name) if self._label else ""
        text = line.decode(errors="replace").rstrip("\n")
        if text.startswith("error: "):
            self._explained.add(program.name)
            if text in self._told:
                return  # an error that keeps both from starting is printed once
            self._told.add(text)
        self._print(f"{prefix}{text}")

    def _print(self, line: str) -> None:
        try:
            print(line, file=sys.stderr, flush=True)
        except BrokenPipeError:  # the reader has gone, as after `2>&1 | head`
            if not self._stopping.is_set():
                self._stop(READER_GONE)
        except OSError:
            pass  # a full disk under the log is no reason to stop

    async def _reload_on_change(self, path: Path, *, is_folder: bool) -> None:
        try:
            await self._restart_on_change(path, is_folder=is_folder)
        except (OSError, RuntimeError) as error:  # editors may have all of a user's watches
            logger.warning("polling for changes (%s)", str(error).partition(" about")[0])
            await self._restart_on_change(path, is_folder=is_folder, polling=True)

    async def _restart_on_change(
        self, path: Path, *, is_folder: bool, polling: bool | None = None
    ) -> None:
        async for changes in awatch(
            path if is_folder else path.parent,
            watch_filter=_is_code if is_folder else lambda _, file: Path(file).name == path.name,
            stop_event=self._stopping,
            step=100,
            recursive=is_folder,
            force_polling=polling,
        ):
            names = sorted({Path(changed).name for _, changed in changes})
            more = " …" if names[3:] else ""
            logger.info("changed: %s%s; restarting", ", ".join(names[:3]), more)
            self._generation += 1
            self._told.clear()
            self._changed.set()
            self._signal_all(signal.SIGTERM)
            # An endless loop in the code that was just mended keeps a program from ending.
            loop, old = asyncio.get_running_loop(), tuple(self._running.values())
            loop.call_later(self._patience, _signal, old, signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        _signal(tuple(self._running.values()), number)

    def _prefix(self, name: str) -> str:
        label = f"{name:<{self._width}} | "
        names = [program.name for program in self._programs]
        colour = NAME_COLOURS[names.index(name) % len(NAME_COLOURS)]
        return f"\x1b[{colour}m{label}\x1b[0m" if self._colourful else label


def _signal(processes: Sequence[Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it has ended
            process.send_signal(number)


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    """Return the next line, or a part of one that is too long; empty at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as end:
        return end.partial
    except asyncio.LimitOverrunError as long:
        return await stream.readexactly(long.consumed)


def _how_it_ended(code: int) -> str:
    """Return how a process ended, by its return code.

    >>> _how_it_ended(7), _how_it_ended(-11), _how_it_ended(-35)
    ('ended with exit code 7', 'was ended by SIGSEGV', 'was ended by signal 35')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was ended by signal {-code}"


def _is_code(_change: object, path: str) -> bool:
    """Return whether a changed file restarts the programs; templates are reloaded without."""
    return path.endswith(".py") and "__pycache__" not in path
