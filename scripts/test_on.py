"""Runs the tests of tasks and events on another server: ``just test-on redis-server``."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

TESTS = ("tests/runtime/tasks", "tests/runtime/sse")
START_SECONDS = 10


def main() -> None:
    """Start the server on a free port, run pytest with the arguments that are left, stop it."""
    if len(sys.argv) < 2 or not (server := shutil.which(sys.argv[1])):
        sys.exit("Name a server's program that is installed here:  just test-on redis-server")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [server, *options, "--dir", folder], stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            wait_for(port)
            print(f"on {version(server)}", file=sys.stderr)
            code = subprocess.run(
                [sys.executable, "-m", "pytest", *(sys.argv[2:] or TESTS)],
                env={**os.environ, "TEST_REDIS_URL": f"redis://127.0.0.1:{port}"},
                check=False,
            ).returncode
        finally:
            process.terminate()
            process.wait()
    sys.exit(code)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until something listens on the port."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            sys.exit(f"The server does not answer after {START_SECONDS} s")
        time.sleep(0.05)


def version(server: str) -> str:
    """Return the server's own version."""
    return subprocess.check_output([server, "--version"], text=True).strip()


if __name__ == "__main__":
    main()
