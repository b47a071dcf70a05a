"""Listening sockets."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from vibetuner.errors import CommandError

__all__ = ["listen"]

CURE = "Stop what uses it, or choose another:  --port {port}"


def listen(host: str, port: int, *, cure: str = "") -> socket.socket:
    """Return a listening socket.

    Args:
        host: the address to listen on.
        port: the port to listen on.
        cure: what to do when it is taken, with ``{port}`` for the next one that is free.

    Raises:
        CommandError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            cure = "Name an address of this machine:  --host 127.0.0.1"
        cure = (cure or CURE).replace("{port}", str(_next_free(host, port, family)))
        raise CommandError(
            f"Port {port} on {host} can't be used: {error.strerror}. {cure}"
        ) from None
    listener.set_inheritable(True)
    return listener


def _next_free(host: str, port: int, family: socket.AddressFamily) -> int:
    """Return a port above ``port`` that can be had, and that needs no privilege."""
    first = max(port + 1, 1024)
    for other in range(first, min(first + 100, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, other))
            return other
    return first
