"""coredis's connection pool, without the places that it loses."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from coredis import ConnectionPool
from coredis.connection import TCPConnection
from coredis.exceptions import RedisError

__all__ = ["ReliablePool"]

_connecting: ContextVar[bool] = ContextVar("connecting", default=False)


class ReliablePool(ConnectionPool[TCPConnection]):
    """Gives a place back to the pool whatever ends the connection that had it.

    In coredis 6.9 the place of a connection that dies while it is in use, or whose connecting is
    cancelled, is lost. A process that lives through some sixty of these waits for ever.
    """

    async def get_connection(self, **options: Any) -> TCPConnection:
        """A connection from the pool, or a new one in a free place of it."""
        token = _connecting.set(False)
        try:
            return await super().get_connection(**options)
        except RedisError:
            raise  # coredis itself gives the place back
        except BaseException:
            if _connecting.get():
                self._available_connections.append_nowait(None)
            raise
        finally:
            _connecting.reset(token)

    def release(self, connection: TCPConnection) -> None:
        """Take a connection back, or its place when it is of no more use."""
        super().release(connection)
        if not connection.usable:
            self._available_connections.append_nowait(None)

    async def _construct_connection(self) -> TCPConnection:
        _connecting.set(True)
        return await super()._construct_connection()
