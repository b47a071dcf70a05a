"""One process of a project: ``python -m vibetuner.cli.child``, started by the supervisor.

It imports only the part that it runs.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
import time

from vibetuner.cli.complaint import complaining
from vibetuner.cli.loading import import_coredis, loading
from vibetuner.cli.ports import raise_open_files
from vibetuner.config import get_settings
from vibetuner.loader import Terminating
from vibetuner.logs import configure_logging

# The time that a worker needs to stop, beyond its grace period: cleanup, recording, closing.
STOP_SECONDS = 25.0


def main(arguments: list[str] | None = None) -> None:
    """Run one part until a signal comes; an error is one line and an exit code."""
    options = _parse(arguments)
    # Until the part handles signals itself, a signal ends the start and closes open resources.
    signal.signal(signal.SIGTERM, Terminating())
    # A closed terminal stops it in order, too, but not with `nohup`.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with complaining():
        settings = get_settings()
        raise_open_files()
        as_json = settings.environment == "production"
        configure_logging(debug=settings.debug, as_json=as_json, process=options.name)
        if options.supervisor:
            end_with(options.supervisor, settings.worker_grace_period + STOP_SECONDS)
        if options.part == "worker":
            _serve_worker(options)
        else:
            _serve_pages(options)


def _serve_pages(options: argparse.Namespace) -> None:
    with loading():
        import_coredis()
        from vibetuner.cli.web import serve_frontend, serve_monitor

    with socket.socket(fileno=options.fd) as listener:
        if options.part == "frontend":
            serve_frontend(listener, dev=options.dev)
        else:
            serve_monitor(listener, host=options.host, worker_id=options.worker)


def _serve_worker(options: argparse.Namespace) -> None:
    with loading():
        import_coredis()
        from vibetuner.cli.worker import serve_worker

    monitor = (options.host, options.port) if options.port else None
    serve_worker(
        monitor=monitor, dev=options.dev, warn=not options.beside_web, queues=options.queues
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vibetuner.cli.child")
    parser.add_argument("part", choices=["frontend", "worker", "monitor"])
    parser.add_argument("--name", default="")
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--beside-web", action="store_true")
    parser.add_argument("--supervisor", type=int)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--worker", default="")
    parser.add_argument("--queues")
    parser.add_argument("--port", type=int, default=0)
    return parser.parse_args(arguments)


def end_with(supervisor: int, patience: float) -> None:
    """Stop gracefully once the supervisor has gone (kill -9), be it before this process looks.

    A process that has not stopped ``patience`` seconds later, as its event loop is blocked, is
    killed, as the supervisor would have done.
    """

    def watch() -> None:
        while os.getppid() == supervisor:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()


if __name__ == "__main__":
    main()
