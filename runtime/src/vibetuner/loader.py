"""Finds ``src/<package>/tune.py`` and returns the project that it declares."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from vibetuner.app import VibetunerApp
from vibetuner.errors import ProjectError, VibetunerError, first_line, install_command, suggest
from vibetuner.logs import enable_loggers, open_standard_files
from vibetuner.project import ProjectInfo, find_root, project_info

# Imports that older guides and other libraries suggest, each with the cure.
CURES = {
    "cannot import name 'WorkerDepends' from 'streaq'": (
        "Write:  from vibetuner.tasks import WorkerDepends"
    ),
    "No module named 'httpx'": ("Import httpx2, which comes with vibetuner, or run:  uv add httpx"),
}


END_FORK = "End it there with os._exit(0), or use the multiprocessing module in a task"
STAY = "Stay in it, as settings and files are found from there"
KEEP_OPEN = "Leave it open, as errors and log lines are written to it"


class Terminated(SystemExit):
    """A signal ended this process; the module being imported did not call ``sys.exit()``."""


class Terminating:
    """Handles SIGTERM by the end of the start, until a part handles the signal itself.

    Python discards an exception that is raised in a destructor, or in the callback that frees the
    lock of an import. So the handler remembers the signal for the part, which then stops.
    """

    received = False

    def __call__(self, *_: object) -> None:
        """Raise Terminated."""
        self.received = True
        raise Terminated


def was_received(handler: object) -> bool:
    """Return whether a signal's former handler has received it in vain."""
    return isinstance(handler, Terminating) and handler.received


@cache
def end_forks_by_signal() -> None:
    """Let SIGTERM end the processes that the project's code forks from this one, and only those.

    A fork inherits the handlers, and asyncio's pipe: through it, a signal for the fork would reach
    the event loop of this process and stop it. A signal that comes earlier waits.
    """

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def restore() -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=restore)


@cache
def load_project() -> VibetunerApp:
    """Return the project's :class:`VibetunerApp`; found from any of its folders, loaded once.

    Raises ProjectError if tune.py is missing, ambiguous or broken; the message names file and line.
    """
    project = project_info()
    tune = project.root / "src" / project.package / "tune.py"
    make_importable(project)
    app = getattr(import_module_of(project, f"{project.package}.tune"), "app", None)
    if not isinstance(app, VibetunerApp):
        found = "nothing" if app is None else f"a {type(app).__name__}"
        raise ProjectError(f"{tune}: expected `app = VibetunerApp(...)`, found {found} named app")
    return app


def find_project() -> VibetunerApp | None:
    """Return the project; None outside of one.

    One that is loaded stays, though a task may leave its folder, and a deploy may delete that.
    """
    return load_project() if load_project.cache_info().currsize or find_root() else None


def make_importable(project: ProjectInfo) -> None:
    """Put ``src/`` on the path if it is missing; it takes precedence over an installed copy.

    Raises ProjectError if another module has the package's name.
    """
    source = project.root / "src"
    spec = find_spec(project.package)
    # A plain folder with the name has no origin, and is a package only if nothing else is.
    origin = spec.origin if spec else None
    installed = Path(origin).resolve().parent if origin else None
    if installed == (source / project.package).resolve():
        return
    if installed is not None and not (installed / "tune.py").is_file():
        raise ProjectError(
            f"The name of the package src/{project.package} is taken by {origin}. "
            "Rename the package"
        )
    sys.path.insert(0, str(source))


def import_module_of(project: ProjectInfo, name: str) -> ModuleType:
    """Import a module of the project.

    Raises ProjectError if the module is broken, calls ``sys.exit()``, raises KeyboardInterrupt,
    closes stderr, forks or leaves the project's folder; the message names file and line, if they
    are known.
    """
    process = os.getpid()
    try:
        module = import_module(name)
    except (VibetunerError, Terminated):
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not _is_raised(error):
            raise
        if isinstance(error, BaseExceptionGroup) and error.subgroup(
            (Terminated, KeyboardInterrupt)
        ):
            raise
        source = project.root / "src"
        file = source / f"{name.replace('.', '/')}.py"
        located = locate(error, source) or f"{file}:1: {_describe(error, source)}"
        raise ProjectError(located) from error
    if os.getpid() != process:
        raise ProjectError(f"{name}: a fork of this process goes on after the import. {END_FORK}")
    if find_root() != project.root:
        raise ProjectError(f"{name}: os.chdir() leaves {project.root} during the import. {STAY}")
    if sys.__stderr__ is None or sys.__stderr__.closed:
        raise ProjectError(f"{name}: sys.stderr is closed while it is imported. {KEEP_OPEN}")
    open_standard_files()
    enable_loggers()
    return module


def _is_raised(error: KeyboardInterrupt) -> bool:
    """Return whether a line of code has raised it, and not Ctrl-C."""
    line = traceback.extract_tb(error.__traceback__)[-1].line
    return "raise KeyboardInterrupt" in (line or "")


def locate(error: BaseException, folder: Path) -> str | None:
    """Return ``file:line: error``, with the line below ``folder`` that led to the error, if any."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno or 0}: syntax error: {error.msg}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(str(folder))
    ]
    if not frames:
        return None
    return f"{frames[-1].filename}:{frames[-1].lineno}: {_describe(error, folder)}"


def _describe(error: BaseException, source: Path) -> str:
    if isinstance(error, SystemExit):
        return (
            f"sys.exit({'' if error.code is None else repr(error.code)}) is called while the "
            'module is imported. Put it below  if __name__ == "__main__":'
        )
    message = first_line(error, "no message")
    return f"{type(error).__name__}: {_with_cure(error, message, source)}"


def _with_cure(error: BaseException, message: str, source: Path) -> str:
    for beginning, cure in CURES.items():
        if message.startswith(beginning):
            return f"{beginning}. {cure}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if (source / package).is_dir():
            path = error.name.replace(".", "/")
            return f"{message}. Correct the import, or create src/{path}.py"
        return f"{message}. If it is a package that is not installed:  {install_command(package)}"
    if "VibetunerApp" not in message or "unexpected keyword argument" not in message:
        return message
    message = message.partition(". Did you mean")[0]  # the hint that Python 3.13 adds
    wrong = message.rsplit("'", 2)[-2]
    known = VibetunerApp.__dataclass_fields__
    cure = suggest(wrong, known, f"It takes {', '.join(known)}", "{}=")
    return f"{message}. {cure}"
