"""Limits for open event streams: for each client, and for the process."""

from __future__ import annotations

import logging
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network

from vibetuner.config import Settings
from vibetuner.logs import log_sparingly

logger = logging.getLogger(__name__)

#: the seconds after which a refused client should try again
RETRY_SECONDS = 10


class TooManyStreams(Exception):  # noqa: N818 - a state, as in HTTP 429
    """A stream was refused; ``status`` is the HTTP status of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StreamBudget:
    """Counts the open streams of one process."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        log_sparingly(logger)

    def __len__(self) -> int:
        return self._open.total()

    @contextmanager
    def admit(self, address: str, settings: Settings) -> Iterator[None]:
        """Count a stream of a client for the length of the block.

        Raises:
            TooManyStreams: the client has SSE_STREAMS_PER_CLIENT streams open (429), or the
                process has SSE_STREAMS (503).
        """
        client = client_of(address)
        self._check(client, settings)
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def _check(self, client: str, settings: Settings) -> None:
        each, total = settings.sse_streams_per_client, most(settings)
        if client and each and self._open[client] >= each:
            reason = f"{client} has {each} open, which is SSE_STREAMS_PER_CLIENT"
            answer = TooManyStreams(429, "Too many event streams are open at your address.")
        elif len(self) >= total:
            reason = f"{total} are open, which is SSE_STREAMS or half of the open files allowed"
            answer = TooManyStreams(503, "Too many event streams are open.")
        else:
            return
        logger.warning("refused an event stream: %s", reason)
        raise answer


def most(settings: Settings) -> int:
    """Return the most streams that this process may have open.

    Each takes a file descriptor; half of those stay free for requests and databases.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    return max(1, min(settings.sse_streams, files // 2))


def client_of(address: str) -> str:
    """Return the name under which an address is counted; an IPv6 client has a /64 network.

    >>> client_of("192.0.2.7"), client_of("2001:db8:1:2:3::4"), client_of("::ffff:192.0.2.7")
    ('192.0.2.7', '2001:db8:1:2::/64', '192.0.2.7')
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return repr(address[:64]) if address else ""  # from a proxy, or a Unix socket
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ip_network((ip, 64), strict=False)) if not ip.is_loopback else str(ip)


@cache
def get_budget() -> StreamBudget:
    """Return the process's budget."""
    return StreamBudget()
