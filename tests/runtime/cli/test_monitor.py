"""The monitor's thread."""

from __future__ import annotations

import socket
import threading

import httpx2
import pytest

from tests.processes import free_port, wait_for_http
from vibetuner.cli.monitor import monitored
from vibetuner.config import Settings
from vibetuner.tasks.worker import TaskWorker


@pytest.fixture
def worker(fresh: None) -> TaskWorker:
    return TaskWorker(Settings(redis_key_prefix="watched"))


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("monitor")}


def test_the_page_is_there_inside_the_block_and_gone_after_it(worker: TaskWorker):
    """Its port is free again, its threads have ended."""
    port = free_port()
    with monitored(worker, ("127.0.0.1", port)):
        assert threads() == {"monitor"}
        wait_for_http(f"http://127.0.0.1:{port}/health")
        health = httpx2.get(f"http://127.0.0.1:{port}/health").json()
        assert health["queue"] == "watched"

    assert threads() == set()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/health")


def test_a_monitor_that_nobody_looks_at_ends_too(worker: TaskWorker):
    """Although it never loaded a web server."""
    with monitored(worker, ("127.0.0.1", free_port())):
        pass

    assert threads() == set()


def test_a_port_in_use_is_no_reason_to_stop(worker: TaskWorker, caplog: pytest.LogCaptureFixture):
    """A second worker on the machine works unwatched, and says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with monitored(worker, ("127.0.0.1", port)):
            assert threads() == set()

    (message,) = caplog.messages
    assert message.startswith(f"no monitor: Port {port} on 127.0.0.1 can't be used")


def test_without_an_address_there_is_no_monitor(worker: TaskWorker):
    """The second of several workers."""
    with monitored(worker, None):
        assert threads() == set()
