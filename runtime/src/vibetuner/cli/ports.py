"""Listening sockets, and the limit of open files."""

from __future__ import annotations

import errno
import resource
import socket
import time
from contextlib import suppress

from vibetuner.errors import CommandError

# The connections that the kernel keeps until they are accepted. A client tries again a second after
# one that found no place.
BACKLOG = 256
# More would not help, and some programs loop over all possible file descriptors.
MOST_FILES = 65_536

CURE = "Stop what uses it, or choose another:  --port {port}"


def listen(host: str, port: int, *, cure: str = "", patience: float = 0.0) -> socket.socket:
    """Return a listening socket.

    ``cure`` says what to do if the port is taken, with ``{port}`` for the next one that is free.
    A port that is taken is tried again for ``patience`` seconds.

    Raises CommandError if the address can't be used.
    """
    if not host:  # would mean all addresses of the machine
        raise CommandError("--host is empty. Name an address, such as 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + patience
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            try:
                listener.bind((host, port))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    raise
            time.sleep(0.05)
        listener.listen(BACKLOG)
    except (OSError, TypeError) as error:  # a name with an empty part is a TypeError
        listener.close()
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", "No host name")
        if code in {errno.EADDRNOTAVAIL, None} or isinstance(error, socket.gaierror):
            cure = "Name an address of this machine:  --host 127.0.0.1"
        else:
            cure = (cure or CURE).replace("{port}", str(_next_free(host, port, family)))
        raise CommandError(f"Port {port} on {host} can't be used: {reason}. {cure}") from None
    listener.set_inheritable(True)
    return listener


def _next_free(host: str, port: int, family: socket.AddressFamily) -> int:
    """Return a free port that needs no privilege: above ``port``, or from 1024 after the last."""
    first = max((port + 1) % 65_536, 1024)
    for other in range(first, min(first + 100, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, other))
            return other
    return first


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one, up to MOST_FILES."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS has a lower limit than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_files() -> int:
    """Return the number of files that this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, MOST_FILES)
