"""A well-behaved client: it asks for a page every 50 ms, and prints how long each response took.

``python honest.py PORT PID`` runs until its input is closed. A line has the status or an error, the
seconds until the response, and how many of these the cores were busy with others: while the server
PID or this process was ready to run and had no core. An attacker would be on another machine.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

PAUSE, LONGEST = 0.05, 10.0
# The time that a wait in small steps may take longer than it should.
STEP, LATE = 0.02, 0.02
REQUEST = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def main(port: int, pid: str) -> None:
    """Print a line for each response."""
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        waited, began = waited_for_a_core(pid), time.monotonic()
        try:
            status, stopped = ask(port)
        except OSError as error:
            status, stopped = repr(error), 0.0
        took = time.monotonic() - began
        sys.stdout.write(f"{took:.4f} {stopped + waited_for_a_core(pid) - waited:.4f} {status}\n")
        sys.stdout.flush()


def ask(port: int) -> tuple[str, float]:
    """Return the status of the response, and the seconds for which this process did not run."""
    received, stopped, end = b"", 0.0, time.monotonic() + LONGEST
    with socket.create_connection(("127.0.0.1", port), LONGEST) as connection:
        connection.sendall(REQUEST)
        connection.settimeout(STEP)
        while (began := time.monotonic()) < end:
            try:
                if not (data := connection.recv(4096)):
                    return received[9:12].decode() or "closed", stopped
                received += data
            except TimeoutError:
                pass
            late = time.monotonic() - began - STEP
            stopped += late if late > LATE else 0
    return "no answer", stopped


def waited_for_a_core(pid: str) -> float:
    """Return the seconds that a process's main thread was ready to run and did not, so far."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:  # a kernel without statistics, or the process has ended
        return 0.0


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
