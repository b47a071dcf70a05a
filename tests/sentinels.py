"""Servers for single tests: three Sentinels, a primary and two replicas, which fail over soon."""

from __future__ import annotations

import secrets
import time
from functools import partial
from pathlib import Path

from tests.processes import free_port
from tests.valkey import Servers
from tests.waiting import wait_until
from vibetuner.redis.blocking import RefusedError, Reply
from vibetuner.redis.url import Tls

__all__ = ["Replicated"]

NAME = "mymaster"
#: The Sentinels' periods in milliseconds, which are shorter than by default.
PERIODS = (
    "info-period", "100", "ping-period", "400", "ask-period", "100", "publish-period", "100",
    "election-timeout", "500", "min-link-reconnect-period", "100",
)  # fmt: skip
#: Milliseconds of silence that mean nothing before the first fault, as the machine may be busy.
BUSY_MS = 60_000


class Replicated(Servers):
    """Servers and Sentinels, named by their ports, and started by ``with``.

    Args:
        folder: the folder for their data.
        options: more options of the servers.
        sentinel_options: more lines of the Sentinels' configuration.
        down_after: milliseconds of silence after which a server counts as gone, from the first
            fault on.
        program: the server; without it, the embedded Valkey, which has no TLS.
        tls: certificates for all of them; they require one from clients, too.
    """

    filler = "filler"

    def __init__(
        self,
        folder: Path,
        *,
        options: tuple[str, ...] = (),
        sentinel_options: tuple[str, ...] = (),
        down_after: int = 500,
        program: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(folder, program=program, tls=tls)
        self.servers = [free_port() for _ in range(3)]
        self.sentinels = [free_port() for _ in range(3)]
        self._options = options
        self._sentinel_options = sentinel_options
        self._down_after = down_after
        self._has_fault = False

    @property
    def url(self) -> str:
        """Return the value of REDIS_URL."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis{'s' if self._tls else ''}+sentinel://{hosts}/{NAME}"

    def start(self) -> None:
        """Start all servers, and wait until the Sentinels know each other and the replicas."""
        first, *others = self.servers
        self.launch(first)
        for port in others:
            self.launch(port, replica_of=first)
        wait_until(lambda: "connected_slaves:2" in str(self.on(first, "INFO")), what=lambda: "two")
        ids = {port: secrets.token_hex(20) for port in self.sentinels}
        for port in self.sentinels:
            lines = [
                *(f"{name} {value}" for name, value in self._listening(port).items()),
                "bind 127.0.0.1", f"sentinel myid {ids[port]}",
                f"sentinel monitor {NAME} 127.0.0.1 {first} 2",
                *(
                    f"sentinel {name} {NAME} {value}"
                    for name, value in self._timeouts(BUSY_MS).items()
                ),
                *(f"sentinel known-replica {NAME} 127.0.0.1 {other}" for other in others),
                *(
                    f"sentinel known-sentinel {NAME} 127.0.0.1 {other} {ids[other]}"
                    for other in self.sentinels if other != port
                ),
                *self._sentinel_options,
            ]  # fmt: skip
            file = self.folder_of(port) / "sentinel.conf"
            file.write_text("\n".join([*lines, ""]))
            self.run(port, str(file), "--sentinel")
        for port in self.sentinels:
            self.wait_for(port)
            self.on(port, "SENTINEL", "DEBUG", *PERIODS)
        for port in self.sentinels:
            wait_until(partial(self._is_ready, port), what=lambda: "Sentinels")

    def launch(self, port: int, *, replica_of: int | None = None) -> None:
        """Start one of the servers, and wait until it answers."""
        listening = (
            part for name, value in self._listening(port).items() for part in (f"--{name}", value)
        )
        following = () if replica_of is None else ("--replicaof", f"127.0.0.1 {replica_of}")
        self.run(
            port, *listening, "--bind", "127.0.0.1", "--save", "",
            "--repl-diskless-sync-delay", "0", *self._options, *following,
        )  # fmt: skip
        self.wait_for(port)

    def __exit__(self, *_: object) -> None:
        self._has_fault = True
        super().__exit__()

    def kill(self, port: int) -> None:
        """Kill a server, which the Sentinels notice."""
        self._begin_faults(port)
        super().kill(port)

    def freeze(self, port: int) -> None:
        """Stop a server's process, which the Sentinels notice; its connections stay open."""
        self._begin_faults(port)
        super().freeze(port)

    def launch_replica(self, port: int) -> None:
        """Start a server that was a replica when it was killed."""
        self.launch(port, replica_of=self.primary)

    @property
    def primary(self) -> int:
        """Return the port of the server that the last Sentinel calls the primary."""
        named = self.on(self.sentinels[-1], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        assert isinstance(named, list)
        return int(str(named[1]))

    @property
    def replicas(self) -> list[int]:
        """Return the ports of the two other servers."""
        primary = self.primary
        return [port for port in self.servers if port != primary]

    def fail_over(self, *options: str) -> None:
        """Promote a replica, as a person does before shutting the primary down.

        The leading Sentinel then asks the replica once a second whether it is the primary. The
        others turn it into a replica again after four of their publish periods, unless they are
        informed before; so these are made longer.
        """
        leader, *others = self.sentinels
        for port in others:
            self.on(port, "SENTINEL", "DEBUG", "publish-period", "2000")
        self.on(leader, "SENTINEL", "FAILOVER", NAME, *options)

    def notice_after(self, milliseconds: int) -> None:
        """Set the milliseconds of silence after which a server counts as gone."""
        for port in self.sentinels:
            for name, value in self._timeouts(milliseconds).items():
                self.on(port, "SENTINEL", "SET", NAME, name, str(value))

    @staticmethod
    def _timeouts(milliseconds: int) -> dict[str, int]:
        return {"down-after-milliseconds": milliseconds, "failover-timeout": 2 * milliseconds}

    def _begin_faults(self, port: int) -> None:
        """Let the Sentinels notice from now on that a server is silent."""
        if port in self.servers and not self._has_fault:
            self._has_fault = True
            self.notice_after(self._down_after)

    def wait_for_promotion(self, old: int, *, seconds: float = 90) -> float:
        """Wait until another server is the primary; return the time, by the monotonic clock.

        A Sentinel that was held up for two seconds observes only, for the next thirty.
        """
        wait_until(
            lambda: (new := self.primary) != old and "role:master" in str(self.on(new, "INFO")),
            seconds=seconds,
            what=lambda: f"a primary that is not {old}",
        )
        return time.monotonic()

    def is_down(self, port: int) -> bool:
        """Return whether all Sentinels report a replica as down."""
        reports = (self.on(one, "SENTINEL", "REPLICAS", NAME) for one in self.sentinels)
        known = [
            str(replica) for report in reports if isinstance(report, list) for replica in report
        ]
        return all("s_down" in replica for replica in known if f"'{port}'" in replica)

    def is_whole(self) -> bool:
        """Return whether all Sentinels name one primary, and both others follow it.

        A primary that was thawed may be replaced a moment later: a Sentinel that considers it down,
        or has begun a failover, reports more flags.
        """
        try:
            known = [_fields(self.on(port, "SENTINEL", "MASTER", NAME)) for port in self.sentinels]
            info = str(self.on(self.primary, "INFO", "replication"))
        except (OSError, RefusedError):
            return False
        named = {(one["ip"], one["port"], one["flags"]) for one in known}
        follow = "role:master" in info and info.count("state=online") == 2
        return follow and len(named) == 1 and known[0]["flags"] == "master"

    def _listening(self, port: int) -> dict[str, str]:
        if self._tls is None:
            return {"port": str(port)}
        folder = Path(str(self._tls.ca_certs)).parent
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-replication": "yes",
            "tls-auth-clients": "yes",
            "tls-ca-cert-file": f"{folder}/ca.pem",
            "tls-cert-file": f"{folder}/server.pem",
            "tls-key-file": f"{folder}/server.key",
        }

    def _is_ready(self, port: int) -> bool:
        known = _fields(self.on(port, "SENTINEL", "MASTER", NAME))
        replicas = self.on(port, "SENTINEL", "REPLICAS", NAME)
        assert isinstance(replicas, list)
        links = [_fields(replica)["master-link-status"] for replica in replicas]
        return (known["num-other-sentinels"], known["flags"], links) == (
            "2",
            "master",
            ["ok", "ok"],
        )


def _fields(reply: Reply) -> dict[str, Reply]:
    assert isinstance(reply, list)
    return dict(zip(map(str, reply[::2]), reply[1::2], strict=True))
