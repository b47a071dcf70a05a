"""Just enough of sockets and protocols to know whether a server is there."""

from __future__ import annotations

import socket
from contextlib import suppress

__all__ = ["HELLO", "ask", "bind"]

# OP_MSG with the document {hello: 1, $db: "admin"}
HELLO = (
    b"\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0" + b"\0\0\0\0\0"
    b"\x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0"
)


def bind(preferred: int | None) -> socket.socket:
    """A loopback socket on the preferred port, or on a free one when that is taken."""
    for port in (preferred, 0) if preferred else (0,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port or 0))
        except OSError:
            listener.close()
            if not port:
                raise
        else:
            return listener
    raise AssertionError("port 0 is bound or raises")


def ask(port: int | None, question: bytes, *, enough: int | None = None) -> bytes:
    """Everything a server answers until it closes the connection; b"" when it does not."""
    answer = b""
    with (
        suppress(OSError),
        socket.create_connection(("127.0.0.1", port or 0), timeout=0.5) as connection,
    ):
        connection.sendall(question)
        while enough is None or len(answer) < enough:
            chunk = connection.recv(65536)
            if not chunk:
                break
            answer += chunk
    return answer
