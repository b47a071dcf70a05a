"""The monitor beside a worker, which starts on the first request."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import httpx2
import pytest

from tests.processes import Site, children_of, free_port, vibetuner, wait_for_http, wait_until
from tests.projects import write_shop
from vibetuner.cli.monitor import monitored
from vibetuner.embedded import Lease

TOKEN = "a token that nobody guesses"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("monitor")}


@pytest.fixture
def environment(servers: Lease) -> dict[str, str]:
    return {
        "REDIS_URL": servers.urls["redis"],
        "REDIS_KEY_PREFIX": f"test-{uuid4().hex[:8]}",
        "SECRET_KEY": "a key that the tests share, and nobody else",
        "DEBUG_ACCESS_TOKEN": TOKEN,
    }


@pytest.fixture
def watched(tmp_path: Path, environment: dict[str, str]) -> Iterator[Site]:
    """Run a worker in production, and yield it with its monitor's address."""
    folder, port = write_shop(tmp_path / "shop"), free_port()
    with vibetuner(
        *("run", "prod", "worker", "--port", str(port)),
        folder=folder,
        log=tmp_path / "log",
        environment=environment,
    ) as command:
        command.wait_for("worker ready", seconds=60)
        yield Site(command, f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_the_pages_are_there_when_somebody_looks(watched: Site):
    """The monitor starts on the first request, and ends with the worker.

    A request of this machine needs no ticket, but one with a foreign host name gets 404.
    """
    worker = watched.command.process.pid
    assert children_of(worker) == set()

    wait_for_http(f"{watched.url}/health", seconds=60)

    def health() -> dict[str, Any]:
        return cast("dict[str, Any]", httpx2.get(f"{watched.url}/health", timeout=20).json())

    # Its queue opens beside the first answers.
    wait_until(lambda: "concurrency" in health(), what=lambda: "the worker's heartbeat")
    told = health()
    assert (told["status"], told["project"], told["concurrency"]) == ("ok", "corner-shop", 16)
    assert "wait_for_ever" in told["tasks"]
    page = httpx2.get(watched.url, follow_redirects=True, timeout=20)
    assert str(page.url).endswith("/debug/tasks")
    assert told["worker"] in page.text
    (child,) = children_of(worker)
    assert os.getsid(child) == child, "Ctrl-C reaches the worker alone, which ends the monitor"

    rebound = httpx2.get(f"{watched.url}/debug/tasks", headers={"Host": "evil.example"}, timeout=30)
    assert rebound.status_code == 404
    children = children_of(worker)
    assert watched.command.stop() == 0
    wait_until(lambda: not any(map(_is_there, children)), what=lambda: "the monitor's end")


def _is_there(pid: int) -> bool:
    from tests.processes import is_gone

    return not is_gone(pid)


@pytest.mark.slow
def test_on_any_other_address_the_gate_is_shut(tmp_path: Path, environment: dict[str, str]):
    """The monitor on a public address shows its state only after the token was given."""
    folder, port = write_shop(tmp_path / "shop"), free_port()
    with vibetuner(
        *("run", "prod", "worker", "--host", "0.0.0.0", "--port", str(port)),
        folder=folder,
        log=tmp_path / "log",
        environment=environment,
    ) as command:
        command.wait_for("worker ready", seconds=60)
        url = f"http://127.0.0.1:{port}"
        wait_for_http(f"{url}/health", seconds=60)
        assert httpx2.get(f"{url}/health", timeout=30).json() == {"status": "ok"}
        assert httpx2.get(f"{url}/debug/tasks", timeout=30).status_code == 404
        unlocked = httpx2.get(f"{url}/_unlock-debug", params={"token": TOKEN}, timeout=30)
        ticket = unlocked.headers["set-cookie"].partition(";")[0]
        opened = httpx2.get(f"{url}/debug/tasks", headers={"Cookie": ticket}, timeout=20)
        assert opened.status_code == 200


def test_a_monitor_that_nobody_looks_at_ends_too():
    """A monitor that never started a web process ends with its worker."""
    with monitored("w1", ("127.0.0.1", free_port())):
        assert threads() == {"monitor"}

    assert threads() == set()


def test_a_port_in_use_is_no_reason_to_stop(caplog: pytest.LogCaptureFixture):
    """A worker whose monitor's port is in use logs that, and takes the port once it is free."""
    caplog.set_level("INFO")
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as taken:
        with monitored("w1", ("127.0.0.1", port)):
            (message,) = caplog.messages
            assert message.startswith(f"no monitor: Port {port} on 127.0.0.1 can't be used")
        assert threads() == set()

        with monitored("w1", ("127.0.0.1", port)):
            taken.close()
            wait_until(lambda: len(caplog.messages) == 3, what=lambda: str(caplog.messages))
    assert caplog.messages[2] == f"the monitor has its port now: {port}"
    assert threads() == set()


def test_without_an_address_there_is_no_monitor():
    """A worker without an address for its monitor, such as the second of several, has none."""
    with monitored("w1", None):
        assert threads() == set()
