"""Finds the primary: asks Sentinels or Cluster nodes, and moves connections to a new one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyio.lowlevel import RunVar
from coredis.exceptions import RedisError

from vibetuner.redis.url import Address

if TYPE_CHECKING:  # it imports this module
    from vibetuner.redis.connection import Connection

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
#: A Sentinel or node that takes longer than this to answer is ignored, if another has answered.
ASK_SECONDS = 1.0
#: The same, once more than half of them have named one primary.
ELECTED_SECONDS = 0.05
LONGEST_ASK_SECONDS = 4.0

Moved = Callable[[Address], None]
# Opens a connection to a Sentinel or to a Cluster node.
Connect = Callable[[Address], "Connection"]


class Primary:
    """The server that most Sentinels, or most nodes of a Cluster, name as the primary.

    All connections of an event loop share one. It asks twice a second, and logs each change once.
    """

    def __init__(self, address: Address, connect: Connect) -> None:
        assert address.guides is not None  # noqa: S101 - others have no use for it
        self._address = address
        self._question = address.guides.question
        self._connect = connect
        self._guides = {one: connect(one) for one in address.watchers()}
        self._others: list[Address] = []
        self._heard: set[Address] = set()
        self._followers: dict[object, Moved] = {}
        self._server: Address | None = None
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def find(self) -> Address:
        """Return the primary; raises OSError when nobody names one."""
        replies = await self._ask_all(self._guides, enough=self._address.is_elected)
        kinds = {type(reply) for reply in replies.values()}
        if TimeoutError in kinds and list not in kinds:
            replies = await self._ask_all(self._guides, seconds=LONGEST_ASK_SECONDS)
        self._heard = {one for one, reply in replies.items() if isinstance(reply, list)}
        try:
            server = self._address.elect(replies)
        except OSError:
            if not self._others:
                raise
            server = self._address.elect(await self._ask_others())
        else:
            self._others = self._address.others(replies)
        if server != self._server:
            if self._server is not None:
                logger.warning("the Redis primary is now %s, was %s", server, self._server)
            self._server = server
        return server

    async def replicas(self, server: Address) -> set[tuple[str, int]]:
        """Return the replicas of a server that are up, according to the guides that name it.

        While a replica is being promoted, they still count it, although it has left the server.

        Raises OSError if most guides call another server the primary.
        """
        guides = self._address.guides
        assert guides is not None  # noqa: S101 - as above
        # Guides that did not answer the last time are left out: they would delay every caller.
        heard = {one: guide for one, guide in self._guides.items() if one in self._heard}
        named, found = await asyncio.gather(
            self._ask_all(heard), self._ask_all(heard, guides.replicas_question)
        )
        if self._address.elect(named) != server:
            raise OSError(f"{server} is no longer the primary")
        place = server.host, server.port
        return set().union(
            *(
                guides.read_replicas(found[one], one)
                for one, reply in named.items()
                if self._address.named(reply, one) == place
            )
        )

    def follow(self, follower: object, moved: Moved) -> None:
        """Call ``moved`` with the primary after each check, until :meth:`unfollow`."""
        self._followers[follower] = moved

    async def unfollow(self, follower: object) -> None:
        """Stop calling it; after the last follower has gone, stop asking."""
        if self._followers.pop(follower, None) is None or self._followers:
            return
        _primaries.get({}).pop(self._address, None)
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await asyncio.gather(*(guide.close() for guide in self._guides.values()))

    async def _ask_others(self) -> dict[Address, Any]:
        guides = {one: self._connect(one) for one in self._others}
        try:
            return await self._ask_all(guides)
        finally:
            await asyncio.gather(*(guide.close() for guide in guides.values()))

    async def _ask_all(
        self,
        guides: dict[Address, Connection],
        question: tuple[str, ...] = (),
        *,
        seconds: float = ASK_SECONDS,
        enough: Callable[[dict[Address, Any]], bool] = lambda _: False,
    ) -> dict[Address, Any]:
        asked = {
            guide: asyncio.create_task(self._ask(connection, question or self._question, seconds))
            for guide, connection in guides.items()
        }
        pending: set[asyncio.Task[Any]] = set(asked.values())
        try:
            while pending:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                replies = {guide: one.result() for guide, one in asked.items() if one.done()}
                if pending and enough(replies):
                    _, pending = await asyncio.wait(pending, timeout=ELECTED_SECONDS)
                    break
        finally:
            for one in pending:
                one.cancel()
        silent = TimeoutError(f"no answer within {seconds:g} s")
        return {guide: silent if one in pending else one.result() for guide, one in asked.items()}

    async def _ask(self, guide: Connection, question: tuple[str, ...], seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await guide.call(*question)
        except TimeoutError:
            return TimeoutError(f"no answer within {seconds:g} s")
        except RedisError as error:
            return error

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                server = await self.find()
            except OSError:
                continue  # existing connections stay open
            for moved in tuple(self._followers.values()):
                moved(server)


_primaries: RunVar[dict[Address, Primary]] = RunVar("primaries")


def primary_of(
    address: Address, connect: Connect, follower: object, moved: Moved
) -> Primary | None:
    """Follow the primary that guides name; return None if the URL names the server itself."""
    if address.guides is None:
        return None
    primaries = _primaries.get({})
    if address not in primaries:
        primaries[address] = Primary(address, connect)
        _primaries.set(primaries)
    primaries[address].follow(follower, moved)
    return primaries[address]
