"""A managed Redis fails over: its name gets another address, and nothing is restarted."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import clean_environment, free_port
from tests.projects import write_shop
from tests.valkey import FOLLOWS_WITHIN
from tests.waiting import wait_until
from vibetuner.embedded.folder import valkey_binary
from vibetuner.redis.blocking import RefusedError, Reply, ask
from vibetuner.redis.url import Address

NAME = "moved.test"
CHILD = Path(__file__).with_name("moved_name.py")


@contextmanager
def server(host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that stores its own address."""
    own = ("--port", str(port), "--bind", host, "--save", "")
    process = subprocess.Popen([valkey_binary(), *own], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(host, port), what=lambda: "valkey")
        on(host, port, "SET", "own:name", host)
        yield process
    finally:
        process.kill()
        process.wait()


def on(host: str, port: int, *command: str) -> Reply:
    return ask(Address(host=host, port=port), command)[0]


def answers(host: str, port: int) -> bool:
    try:
        return on(host, port, "PING") == "PONG"
    except (OSError, RefusedError):
        return False


def unshare() -> list[str]:
    """Return the command that gives a process its own /etc/hosts; skip without that right."""
    for options in (["-m"], ["-rm"]):
        command = ["unshare", *options]
        if (
            shutil.which("unshare")
            and not subprocess.run(
                [*command, "mount", "--bind", "/etc/hosts", "/etc/hosts"], check=False
            ).returncode
        ):
            return command
    pytest.skip("needs a mount namespace of its own")


@pytest.mark.slow
def test_a_worker_follows_its_servers_name_to_another_address(tmp_path: Path):
    """A worker goes on within seconds after its server's name has another address."""
    command = unshare()
    hosts, port, shop = tmp_path / "hosts", free_port(), write_shop(tmp_path / "shop")
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    mounted = f'mount --bind "{hosts}" /etc/hosts && exec "$@"'
    url = f"redis://{NAME}:{port}"
    with (
        server("127.0.0.1", port) as old,
        server("127.0.0.2", port),
        (tmp_path / "log").open("wb+") as log,
    ):
        child = subprocess.Popen(
            [*command, "sh", "-c", mounted, "sh", sys.executable, str(CHILD), url],
            cwd=shop,
            env=clean_environment(),
            stdout=log,
        )
        try:
            wait_until(lambda: b"127.0.0.1 3" in (tmp_path / "log").read_bytes(), what=lambda: "a")
            hosts.write_text(f"127.0.0.2 {NAME}\n")  # the same file, which stays mounted
            old.kill()
            began = time.monotonic()
            wait_until(lambda: b"127.0.0.2 3" in (tmp_path / "log").read_bytes(), what=lambda: "b")
            assert time.monotonic() - began < FOLLOWS_WITHIN
        finally:
            child.kill()
            child.wait()
