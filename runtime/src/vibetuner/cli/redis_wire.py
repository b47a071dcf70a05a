"""Just enough of Redis's protocol to ask a question, without a driver's start-up time."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["RefusedError", "ask"]

SECONDS = 3.0
Reply = str | int | list["Reply"] | None


class RefusedError(Exception):
    """The server has answered with an error."""


def ask(url: str, *commands: Sequence[str]) -> list[Reply]:
    """The answers to some commands, in their order, on one connection.

    Raises:
        OSError: no answer within three seconds.
        RefusedError: the server refused one of them.
        ValueError: the URL makes no sense.
    """
    greeting = _greeting(url)
    with closing(_connect(url)) as connection:
        connection.settimeout(SECONDS)
        connection.sendall(b"".join(map(_encode, [*greeting, *commands])))
        with connection.makefile("rb") as answers:
            replies = [_read(answers) for _ in [*greeting, *commands]]
    return replies[len(greeting) :]


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(SECONDS)
        connection.connect(parts.path)
        return connection
    host = parts.hostname or "localhost"
    connection = socket.create_connection((host, parts.port or 6379), SECONDS)
    if parts.scheme == "rediss":
        import ssl

        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    return connection


def _greeting(url: str) -> list[list[str]]:
    parts = urlsplit(url)
    commands = []
    if parts.password:
        user = [unquote(parts.username)] if parts.username else []
        commands.append(["AUTH", *user, unquote(parts.password)])
    named = parse_qs(parts.query).get("db", [""])[0]
    database = named or ("" if parts.scheme == "unix" else parts.path.strip("/"))
    if database and database != "0":
        commands.append(["SELECT", str(int(database))])
    return commands


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
        return [_read(answers) for _ in range(int(rest))]
    raise ConnectionError("what answers there is no Redis")
