"""Makes guessing the access token slow, for each client on its own."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address

__all__ = ["Guesses", "TooManyWaiting"]

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 8.0
FORGIVEN_AFTER_SECONDS = 15 * 60
MOST_CLIENTS = 1000
MOST_WAITING = 8


class TooManyWaiting(Exception):  # noqa: N818 - a state
    """A client has that many guesses under way that this one is not even looked at."""


@dataclass(slots=True)
class _Client:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    failures: int = 0
    last: float = 0.0


class Guesses:
    """Lets a client's guesses through one at a time, each after a pause that doubles.

    Args:
        first: seconds that the first wrong guess costs.
        longest: and what any costs at the most.
    """

    def __init__(self, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS) -> None:
        self._first = first
        self._longest = longest
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._clients)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for the client's turn, and for what its earlier failures cost.

        Raises:
            TooManyWaiting: the client asks faster than its guesses are let through.
        """
        client = self._client(address)
        if client.waiting >= MOST_WAITING:
            raise TooManyWaiting
        client.waiting += 1
        try:
            async with client.turn:
                if client.failures:
                    await asyncio.sleep(self.pause(client.failures))
                yield
        finally:
            client.waiting -= 1

    async def failed(self, address: str) -> None:
        """Count a wrong guess, and let it cost time."""
        client = self._client(address)
        client.failures += 1
        client.last = time.monotonic()
        await asyncio.sleep(self._first)

    def succeeded(self, address: str) -> None:
        """Forget the client's failures."""
        self._client(address).failures = 0

    def pause(self, failures: int) -> float:
        """Seconds before the next guess is looked at.

        >>> [Guesses().pause(n) for n in (1, 2, 3, 50)]
        [0.5, 1.0, 2.0, 8.0]
        """
        return float(min(self._first * 2 ** min(failures - 1, 30), self._longest))

    def _client(self, address: str) -> _Client:
        key = _network(address)
        client = self._clients.setdefault(key, _Client())
        self._clients.move_to_end(key)
        if client.failures and time.monotonic() - client.last > FORGIVEN_AFTER_SECONDS:
            client.failures = 0
        self._forget_the_oldest()
        return client

    def _forget_the_oldest(self) -> None:
        for key in [key for key, client in self._clients.items() if not client.waiting]:
            if len(self._clients) <= MOST_CLIENTS:
                return
            del self._clients[key]


def _network(address: str) -> str:
    """One household has a whole network of IPv6 addresses.

    >>> _network("2001:db8::1") == _network("2001:db8::2"), _network("192.0.2.1")
    (True, '192.0.2.1')
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return (
        str(IPv6Network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address
    )
