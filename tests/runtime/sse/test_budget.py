"""The numbers of event streams that may be open, for one client and in all."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.processes import Site, wait_until
from vibetuner.config import Settings
from vibetuner.sse.stream import StreamBudget, TooManyStreams, most

LIMITS = Settings(sse_streams=3, sse_streams_per_client=2)


def test_a_client_holds_so_many_streams_and_gets_one_back_for_each_that_ends(
    caplog: pytest.LogCaptureFixture,
):
    """A client gets 429 beyond its limit, and a stream again for each that ends.

    Other clients are served, and the log has one line a minute.
    """
    budget = StreamBudget()
    with budget.admit("192.0.2.1", LIMITS):
        with budget.admit("192.0.2.1", LIMITS):
            for _ in range(100):
                with pytest.raises(TooManyStreams) as refusal, budget.admit("192.0.2.1", LIMITS):
                    pass
                assert refusal.value.status == 429
            with budget.admit("192.0.2.2", LIMITS):
                assert len(budget) == 3
        with budget.admit("192.0.2.1", LIMITS):
            assert len(budget) == 2
    assert len(budget) == 0
    assert caplog.messages == [
        "refused an event stream: 192.0.2.1 has 2 open, which is SSE_STREAMS_PER_CLIENT"
    ]


def test_a_process_holds_so_many_streams_whoever_asks():
    """A stream beyond the limit of the process gets 503, whatever its address."""
    budget = StreamBudget()
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(budget.admit(f"192.0.2.{number}", LIMITS))
        with pytest.raises(TooManyStreams) as refusal, budget.admit("192.0.2.9", LIMITS):
            pass
        assert refusal.value.status == 503


def test_a_network_of_ipv6_is_one_client_and_a_unix_socket_is_none():
    """A network of IPv6 counts as one client, and a Unix socket as none.

    One visitor has 2^64 addresses of IPv6.
    """
    budget = StreamBudget()
    with budget.admit("2001:db8::1", LIMITS), budget.admit("2001:db8::2", LIMITS):
        with pytest.raises(TooManyStreams), budget.admit("2001:db8::3", LIMITS):
            pass
    with budget.admit("", LIMITS), budget.admit("", LIMITS), budget.admit("", LIMITS):
        assert len(budget) == 3


def test_zero_lifts_the_limit_of_a_client():
    """The limit zero allows any number of streams to a client.

    Visitors may share the address of a proxy that is not trusted.
    """
    limits = Settings(sse_streams=100, sse_streams_per_client=0)
    budget = StreamBudget()
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(budget.admit("192.0.2.1", limits))
        assert len(budget) == 100


def test_half_of_the_open_files_are_left_for_everything_else():
    """Event streams get at most half of the open files, whatever SSE_STREAMS is."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert most(Settings(sse_streams=10**6)) == min(10**6, soft // 2)
    assert most(Settings(sse_streams=1)) == 1


@pytest.mark.slow
def test_a_client_that_opens_hundreds_of_streams_is_refused_and_others_are_served(
    serve, environment: dict[str, str]
):
    """A client with too many streams gets 429 with Retry-After, and others are served.

    The log has one line for all refusals.
    """
    limits = {"SSE_STREAMS_PER_CLIENT": "5", "SSE_STREAMS": "1000"}
    with serve(**environment, **limits) as site, ExitStack() as stack:
        for _ in range(5):
            assert stack.enter_context(opened(site, "crowd")).startswith("HTTP/1.1 200")
        for _ in range(300):
            with opened(site, "crowd") as head:
                assert head.startswith("HTTP/1.1 429")
                assert "retry-after: 10" in head
        assert httpx2.get(f"{site.url}/health", timeout=20).status_code == 200
        assert site.command.output.count("refused") == 1
        refused = httpx2.get(f"{site.url}/events/crowd", timeout=20)
        assert refused.json() == {"detail": "Too many event streams are open at your address."}
        stack.close()
        wait_until(lambda: httpx2.get(f"{site.url}/inside", timeout=30).json()["subscribers"] == 0)
        with opened(site, "crowd") as head:
            assert head.startswith("HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux alone limits another process")
def test_few_descriptors_are_enough_for_an_honest_visitor(serve, environment: dict[str, str]):
    """A process with 300 descriptors refuses 250 of 400 streams, and serves other requests."""
    with serve(**environment, SSE_STREAMS_PER_CLIENT="0") as site, ExitStack() as stack:
        pid = httpx2.get(f"{site.url}/inside", timeout=30).json()["pid"]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (300, 300))
        heads = [stack.enter_context(opened(site, "crowd")) for _ in range(400)]
        assert [head.split()[1] for head in heads] == ["200"] * 150 + ["503"] * 250
        assert httpx2.get(f"{site.url}/health", timeout=20).status_code == 200
        assert site.command.output.count("refused") == 1


@pytest.mark.slow
def test_a_process_at_its_limit_of_streams_answers_503(serve, environment: dict[str, str]):
    """A process at its limit of streams answers 503 with Retry-After, and serves other requests."""
    with serve(**environment, SSE_STREAMS="3") as site, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(opened(site, "crowd"))
        with opened(site, "crowd") as head:
            assert head.startswith("HTTP/1.1 503")
            assert "retry-after: 10" in head
        assert httpx2.get(f"{site.url}/inside", timeout=20).json()["subscribers"] == 3


@contextmanager
def opened(site: Site, channel: str) -> Iterator[str]:
    """Open a stream for the length of the block; yield the head of its answer."""
    address = urlsplit(site.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(f"GET /events/{channel} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1024)
        yield head.decode()
