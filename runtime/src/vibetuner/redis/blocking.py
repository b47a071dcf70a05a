"""A blocking client for a few commands: needs no event loop, no driver, no start-up time."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
from typing import BinaryIO

from vibetuner.redis.url import Address

SECONDS = 3.0
GUIDE_SECONDS = 1.0
Reply = str | int | list["Reply"] | None


class RefusedError(Exception):
    """The server has answered with an error."""


def ask(address: Address, *commands: Sequence[str], seconds: float = SECONDS) -> list[Reply]:
    """Send some commands on one connection and return their replies, in order.

    Raises:
        OSError: no answer for ``seconds``, or no guide names a primary.
        RefusedError: the server refused one of them.
    """
    address = _find_primary(address)
    greeting = [[str(word) for word in command] for command in address.greeting()]
    with closing(_connect(address, seconds)) as connection:
        connection.sendall(b"".join(map(_encode, [*greeting, *commands])))
        with connection.makefile("rb") as answers:
            replies = [_read(answers) for _ in [*greeting, *commands]]
    for reply in replies[: len(greeting)]:
        address.check(reply)
    return replies[len(greeting) :]


def responds(port: int | None) -> bool:
    """Return whether a server on this machine answers commands."""
    try:
        return ask(Address(host="127.0.0.1", port=port or 0), ["PING"], seconds=0.5) == ["PONG"]
    except (OSError, RefusedError):
        return False


def _find_primary(address: Address) -> Address:
    if address.guides is None:
        return address
    replies: dict[Address, object] = {}
    for one in address.watchers():
        try:
            (replies[one],) = ask(one, address.guides.question, seconds=GUIDE_SECONDS)
        except (OSError, RefusedError) as error:
            replies[one] = error
        if address.is_elected(replies):
            break  # one that is down would take a second
    return address.elect(replies)


def _connect(address: Address, seconds: float) -> socket.socket:
    if address.path:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        try:
            connection.connect(address.path)
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection((address.host, address.port), seconds)
    if address.tls:
        return address.tls.context().wrap_socket(connection, server_hostname=address.host)
    return connection


def _encode(command: Sequence[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def _read(answers: BinaryIO) -> Reply:
    line = answers.readline()
    kind, rest = line[:1], line[1:].rstrip(b"\r\n")
    if kind == b"-":
        raise RefusedError(rest.decode(errors="replace"))
    if kind == b"+":
        return rest.decode(errors="replace")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else answers.read(size + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        size = int(rest)
        return None if size < 0 else [_read(answers) for _ in range(size)]
    raise ConnectionError("the server on this port is not Redis")
