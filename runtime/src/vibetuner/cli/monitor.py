"""The monitor beside a worker: a web process that runs while its pages are open."""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

from vibetuner.cli.ports import listen
from vibetuner.errors import CommandError

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0
AGAIN_SECONDS = 2.0
# A worker beside the web app has no port option for its monitor; --port is the web app's.
CURE = (
    "The web app has the same pages at /debug. Stop the program that uses the port, or give a "
    "worker that runs alone another one:  --port {port}"
)


@contextmanager
def monitored(worker_id: str, address: tuple[str, int] | None) -> Iterator[None]:
    """Serve the dashboard for the length of the block.

    If its port is in use, log a warning, and take the port once it is free: the monitor of a worker
    that was killed has it for some seconds.

    A thread waits for a visitor, then starts a web process, which ends after some minutes without
    one. So an unwatched worker needs no web process, the dashboard shares no interpreter with
    tasks, and it answers while a task blocks the worker.
    """
    if address is None:
        yield
        return
    try:
        listener = listen(*address, cure=CURE)
    except CommandError as error:
        logger.warning("no monitor: %s", error)
        listener = None
    reader, writer = os.pipe()
    arguments = (worker_id, address, listener, reader)
    thread = threading.Thread(target=_serve, args=arguments, name="monitor")
    thread.start()
    try:
        yield
    finally:
        os.close(writer)
        thread.join()


def _serve(
    worker_id: str, address: tuple[str, int], listener: socket.socket | None, stop: int
) -> None:
    """Run a web process whenever somebody connects, until the pipe's other end is closed."""
    with open(stop, "rb"), ExitStack() as stack:
        while listener is None:
            if select.select([stop], [], [], AGAIN_SECONDS)[0]:
                return
            with suppress(CommandError):
                listener = listen(*address)
                logger.info("the monitor has its port now: %s", address[1])
        stack.enter_context(closing(listener))
        while True:
            looked_at, _, _ = select.select([listener.fileno(), stop], [], [])
            if stop in looked_at:
                return
            process = _start(worker_id, address[0], listener)
            while process.poll() is None:
                if select.select([stop], [], [], 0.5)[0]:
                    _end(process)
                    return
            if process.returncode and select.select([stop], [], [], AGAIN_SECONDS)[0]:
                return


def _start(worker_id: str, host: str, listener: socket.socket) -> subprocess.Popen[bytes]:
    number = listener.fileno()
    options = ["--fd", str(number), "--host", host, "--worker", worker_id]
    options += ["--supervisor", str(os.getpid())]
    command = [sys.executable, "-m", "vibetuner.cli.child", "monitor", "--name", "monitor"]
    return subprocess.Popen(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        pass_fds=(number,),
        start_new_session=True,  # Ctrl-C reaches only the worker, which ends the monitor
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
