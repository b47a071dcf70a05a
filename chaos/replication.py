"""Three servers with three Sentinels, of which one server at a time is in trouble."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.sentinels import NAME, Replicated
from tests.waiting import wait_until
from vibetuner.redis.blocking import RefusedError

__all__ = ["Replication"]

WHOLE_SECONDS = 90
PROMOTION_SECONDS = 60
DOWN_AFTER_MS = 2000
LAG_SECONDS = 0.7
LASTING = ("--appendonly", "yes", "--appendfsync", "always")


class Replication:
    """What a project's REDIS_URL names; started and ended by ``with servers:``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.servers = Replicated(folder, options=LASTING, down_after=DOWN_AFTER_MS)
        self.busy = asyncio.Lock()

    @property
    def url(self) -> str:
        """What REDIS_URL says."""
        return self.servers.url

    async def ready(self) -> None:
        """Return once all Sentinels name one primary, and both others follow it."""
        await asyncio.to_thread(self._wait_until_whole)

    async def strike(self, kind: str, seconds: float) -> None:
        """Do it, and return when the servers have recovered."""
        await asyncio.to_thread(self._strike, kind, seconds)

    def _strike(self, kind: str, seconds: float) -> None:
        servers, old = self.servers, self.servers.primary
        replica, other = (port for port in servers.servers if port != old)
        match kind:
            case "primary killed":
                servers.kill(old)
                self._wait_for_another(old)
                servers.launch(old)
            case "primary killed with a lag":
                # What it acknowledges meanwhile is gone with it.
                servers.hold_back(old)
                time.sleep(LAG_SECONDS)
                servers.kill(old)
                for port in (replica, other):
                    servers.thaw(port)
                self._wait_for_another(old)
                servers.launch(old)
            case "primary frozen":
                servers.freeze(old)
                time.sleep(seconds)
                servers.thaw(old)
            case "replica promoted":
                servers.freeze(old)
                self._wait_for_another(old)
                # It takes itself for the primary until a Sentinel tells it otherwise.
                servers.thaw(old)
            case "replica killed":
                servers.kill(replica)
                time.sleep(seconds)
                servers.launch(replica, replica_of=old)
            case "replica frozen":
                servers.freeze(replica)
                time.sleep(seconds)
                servers.thaw(replica)
        self._wait_until_whole()

    def _wait_for_another(self, old: int) -> None:
        wait_until(
            lambda: self.servers.primary != old,
            seconds=PROMOTION_SECONDS,
            what=lambda: f"a primary that is not {old}",
        )

    def _wait_until_whole(self) -> None:
        wait_until(self._is_whole, seconds=WHOLE_SECONDS, what=lambda: "two replicas that follow")

    def _is_whole(self) -> bool:
        try:
            servers, primary = self.servers, self.servers.primary
            question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
            named = {str(servers.on(port, *question)) for port in servers.sentinels}
            info = str(servers.on(primary, "INFO", "replication"))
        except (OSError, RefusedError):
            return False
        follow = "role:master" in info and info.count("state=online") == 2
        return follow and len(named) == 1
