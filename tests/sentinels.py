"""Three Sentinels, a primary and two replicas of a test's own, which fail over within a second."""

from __future__ import annotations

import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.processes import free_port
from tests.waiting import wait_until
from vibetuner.embedded.packages import valkey_binary
from vibetuner.redis.blocking import RefusedError, Reply, ask
from vibetuner.redis.url import Address

__all__ = ["Replicated"]

NAME = "mymaster"
#: The Sentinels' own clock, in milliseconds, of which "down" is after three pings.
PERIODS = (
    "info-period", "100", "ping-period", "400", "ask-period", "100", "publish-period", "100",
    "election-timeout", "500", "min-link-reconnect-period", "100",
)  # fmt: skip


class Replicated:
    """Servers by their ports; started by ``with``.

    Args:
        folder: where they keep what they write.
        options: more of the servers' own.
        sentinel_options: more lines of the Sentinels' configuration.
    """

    def __init__(
        self, folder: Path, *, options: tuple[str, ...] = (), sentinel_options: tuple[str, ...] = ()
    ) -> None:
        self.servers = [free_port() for _ in range(3)]
        self.sentinels = [free_port() for _ in range(3)]
        self._folder = folder
        self._options = options
        self._sentinel_options = sentinel_options
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The value of REDIS_URL."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/{NAME}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def start(self) -> None:
        """Start all, and wait until the Sentinels know each other and the replicas."""
        first, *others = self.servers
        self.launch(first)
        for port in others:
            self.launch(port, replica_of=first)
        wait_until(lambda: "connected_slaves:2" in str(self.on(first, "INFO")), what=lambda: "two")
        ids = {port: secrets.token_hex(20) for port in self.sentinels}
        for port in self.sentinels:
            lines = [
                f"port {port}", "bind 127.0.0.1", f"sentinel myid {ids[port]}",
                f"sentinel monitor {NAME} 127.0.0.1 {first} 2",
                f"sentinel down-after-milliseconds {NAME} 500",
                f"sentinel failover-timeout {NAME} 1000",
                *(f"sentinel known-replica {NAME} 127.0.0.1 {other}" for other in others),
                *(
                    f"sentinel known-sentinel {NAME} 127.0.0.1 {other} {ids[other]}"
                    for other in self.sentinels if other != port
                ),
                *self._sentinel_options,
            ]  # fmt: skip
            file = self._folder / f"sentinel-{port}.conf"
            file.write_text("\n".join([*lines, ""]))
            self._start(port, str(file), "--sentinel")
        for port in self.sentinels:
            wait_until(lambda port=port: self._answers(port), what=lambda: "a Sentinel")
            self.on(port, "SENTINEL", "DEBUG", *PERIODS)
        for port in self.sentinels:
            wait_until(lambda port=port: self._is_ready(port), what=lambda: "Sentinels")

    def launch(self, port: int, *, replica_of: int | None = None) -> None:
        """Start one of the servers, and wait until it answers."""
        folder = self._folder / str(port)
        folder.mkdir(exist_ok=True)
        following = () if replica_of is None else ("--replicaof", f"127.0.0.1 {replica_of}")
        self._start(
            port, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
            "--repl-diskless-sync-delay", "0", *self._options, *following,
        )  # fmt: skip
        wait_until(lambda: self._answers(port), what=lambda: "valkey")

    @property
    def primary(self) -> int:
        """The port of the server that the first Sentinel calls the primary."""
        named = self.on(self.sentinels[-1], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        assert isinstance(named, list)
        return int(str(named[1]))

    def kill(self, port: int) -> None:
        """As a power cut would."""
        self._processes[port].kill()
        self._processes[port].wait()

    def freeze(self, port: int) -> None:
        """Answer nobody, and hang up on nobody."""
        self._processes[port].send_signal(signal.SIGSTOP)

    def thaw(self, port: int) -> None:
        """Answer again."""
        self._processes[port].send_signal(signal.SIGCONT)

    def fail_over(self) -> None:
        """Have a replica promoted, as a person does before the primary is shut down."""
        self.on(self.sentinels[0], "SENTINEL", "FAILOVER", NAME)

    def wait_for_promotion(self, old: int) -> float:
        """Wait until another server is the primary; returns when, by the monotonic clock."""
        wait_until(
            lambda: (new := self.primary) != old and "role:master" in str(self.on(new, "INFO")),
            what=lambda: f"a primary that is not {old}",
        )
        return time.monotonic()

    def on(self, port: int, *command: str) -> Reply:
        """Send a command to one of them."""
        return ask(Address(host="127.0.0.1", port=port), command)[0]

    def _start(self, port: int, *arguments: str) -> None:
        self._processes[port] = subprocess.Popen(
            [valkey_binary(), *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def _answers(self, port: int) -> bool:
        try:
            return self.on(port, "PING") == "PONG"
        except (OSError, RefusedError):
            return False

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
