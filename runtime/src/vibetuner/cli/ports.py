"""Listening sockets."""

from __future__ import annotations

import socket

from vibetuner.errors import CommandError

__all__ = ["listen"]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises CommandError when the address can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise CommandError(
            f"Port {port} on {host} can't be used: {error.strerror}. "
            f"Stop what uses it, or choose another:  --port {port + 1}"
        ) from None
    listener.set_inheritable(True)
    return listener
