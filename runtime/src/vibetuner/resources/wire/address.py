"""Where a server is, and how to be let in: read by coredis, so that a URL means one thing."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from coredis import ConnectionPool
from coredis.connection import (
    TCPConnection,
    TCPLocation,
    UnixDomainSocketConnection,
    UnixDomainSocketLocation,
)

__all__ = ["Address"]

Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server: a host and port, or the path of a socket; with what it asks of a client."""

    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, pool: Any) -> Self | None:
        """What a pool of coredis's connects to; None for a Sentinel, a Cluster, and the like."""
        if not isinstance(pool, ConnectionPool):
            return None
        options: dict[str, Any] = {**pool.connection_kwargs}
        kind = pool.connection_class
        if kind not in {TCPConnection, UnixDomainSocketConnection} or options.get(
            "credential_provider"
        ):
            return None
        access: dict[str, Any] = {
            "db": options.get("db") or 0,
            "username": options.get("username"),
            "password": options.get("password"),
            "tls": options.get("ssl_context"),
        }
        match pool.location:
            case TCPLocation(host=host, port=port):
                return cls(host=host, port=port, **access)
            case UnixDomainSocketLocation(path=path):
                return cls(path=path, **access)
        return None

    def greeting(self) -> Iterator[Command]:
        """The commands that a new connection begins with."""
        if self.username or self.password:
            yield ("AUTH", self.username or "default", self.password or "")
        if self.db:
            yield ("SELECT", self.db)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"
