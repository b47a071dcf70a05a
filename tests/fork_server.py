"""Imports `vibetuner` and its libraries once, and forks for each command that a test starts.

`forks.py` runs it as a program, with the descriptor of a socket on which the requests come, and
with the packages whose modules it imports after the libraries. A fork has its own process id,
folder, environment and output. It imports the project itself, and ends as the interpreter ends,
except that it does not clear the libraries: that would take most of the time of a short command.
It also serves programs given by `-c`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NoReturn

LIBRARIES = (
    "alembic.command",
    "anyio._backends._asyncio",
    "argon2",
    "coredis.patterns.pipeline",
    "email_validator",
    "fastapi.openapi.models",
    "fastapi.staticfiles",
    "hiredis",
    "itsdangerous",
    "jinja2",
    "pydantic_settings",
    "pymongo",
    "rich.console",
    "sqlalchemy.ext.asyncio",
    "sqlmodel.ext.asyncio.session",
    "streaq",
    "typer._adapters",
    "uvicorn",
    # FastAPI imports it to recognize old models, except where it warns.
    *(("pydantic.v1",) if sys.version_info < (3, 14) else ()),
)
# Modules that are imported as a program, or that pytest rewrites as it imports them.
NOT_IMPORTED = ("__main__", "pytest_plugin")
LARGEST_REQUEST = 1 << 18


def import_all(packages: list[str]) -> list[str]:
    """Import the libraries and all modules of packages; return the variables that they read."""
    read: set[str] = set()
    usual = type(os.environ)

    class Recorded(usual):
        def __getitem__(self, name: str) -> str:
            read.add(name)
            return str(super().__getitem__(name))

    os.environ.__class__ = Recorded
    gc.disable()
    for library in LIBRARIES:
        importlib.import_module(library)
    for package in packages:
        for name in modules_of(package):
            importlib.import_module(name)
    os.environ.__class__ = usual
    gc.freeze()
    gc.enable()
    return sorted(read)


def modules_of(package: str) -> list[str]:
    """Return the names of a package's modules that commands import."""
    paths = importlib.import_module(package).__path__
    found = [module.name for module in pkgutil.walk_packages(paths, f"{package}.")]
    return [name for name in found if not name.endswith(NOT_IMPORTED)]


def serve(control: socket.socket) -> list[str]:
    """Fork for each request until pytest ends; in the fork, return the arguments of `python`."""
    running: dict[int, socket.socket] = {}
    awake, waking = socket.socketpair()
    for end in (awake, waking):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([control, awake], [], [])
        if awake in ready:
            awake.recv(4096)
            reap(running)
        if control in ready:
            request, numbers, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 4)
            if not request:
                sys.exit()
            connection = socket.socket(fileno=numbers[0])
            # A signal to the fork waits until it handles signals as a new process does.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            pid = os.fork()
            if not pid:
                for one in (control, awake, waking, connection, *running.values()):
                    one.close()
                arguments, folder, environment, limits = json.loads(request)
                become(folder, environment, numbers[1:], limits)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return list(arguments)
            running[pid] = connection
            send_number(connection, pid)
            for number in numbers[1:]:
                os.close(number)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def reap(running: dict[int, socket.socket]) -> None:
    """Report the exit of each fork that has ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as connection:
            send_number(connection, status)


def send_number(connection: socket.socket, number: int) -> None:
    """Send a number to a test, if the test still listens."""
    with suppress(ConnectionError):
        connection.sendall(number.to_bytes(4, "big"))


def become(
    folder: str, environment: dict[str, str], files: list[int], limits: dict[str, tuple[int, int]]
) -> None:
    """Give the fork the signal handlers, files, folder, variables and limits of a new process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The streams of the interpreter stay; the server's are no terminals.
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    for stream in (sys.stdin, sys.stdout):
        if stream.isatty() and not environment.get("PYTHONUNBUFFERED"):
            stream.reconfigure(line_buffering=True)
    for name, both in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), both)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"].ORIGINAL_DIR = str(Path.cwd())


def run(option: str, program: str, *arguments: str) -> int:
    """Do what `python -m` and `python -c` do, and return the exit code.

    Any other error, and an exit with a message, end the interpreter as usual.
    """
    try:
        start(option, program, *arguments)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        return ended.code or 0
    return 0


def start(option: str, program: str, *arguments: str) -> None:
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        at_once = os._exit
        # A file of coverage.py in site-packages does this at the start of the interpreter.
        importlib.import_module("coverage").process_startup(force=True)
        with_figures = os._exit

        def leave(code: int) -> NoReturn:
            # While other threads run, coverage.py may crash as it writes its figures.
            is_alone = threading.current_thread() is threading.main_thread()
            (with_figures if is_alone else at_once)(code)

        os._exit = leave
    sys.argv = [option, *arguments]
    sys.path.insert(0, str(Path.cwd()) if option == "-m" else "")
    if option == "-m":
        runpy._run_module_as_main(program)
    else:
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(program, "<string>", "exec", dont_inherit=True), vars(main))


def end(code: int, libraries: set[str]) -> None:
    """End as the interpreter does, but clear no library that the server has imported."""
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        flush()
    except (OSError, ValueError):
        sys.exit(code)  # the interpreter meets the same error, and reports it
    # The interpreter lets no other thread go on from here, so that none meets a cleared module.
    threading.excepthook = lambda _: None
    # coverage.py writes its figures in os._exit().
    going = [one for one in sys.modules if one not in libraries and not one.startswith("coverage")]
    own = [weakref.ref(sys.modules.pop(name)) for name in going]
    gc.collect()
    for reference in reversed(own):
        if module := reference():  # a library refers to it
            names = vars(module)
            names.update(dict.fromkeys(names.keys() - {"__builtins__"}))
    gc.collect()
    flush()
    os._exit(code & 0xFF)


def flush() -> None:
    """Flush the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        if stream and not stream.closed:
            stream.flush()


if __name__ == "__main__":
    # Ctrl-C ends pytest, and not this server; a fork handles it again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Remove the folder of this file, which Python has added.
    del sys.path[0]
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.send(json.dumps(import_all(sys.argv[2:])).encode())
        packages = tuple(f"{package}." for package in sys.argv[2:])
        arguments = serve(control)
    # A fork clears the packages' modules, as if it had imported them itself.
    libraries = {name for name in sys.modules if not f"{name}.".startswith(packages)}
    if arguments[0] == "-c":
        libraries.remove("__main__")  # the program's own
    end(run(*arguments), libraries)
