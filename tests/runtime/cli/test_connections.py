"""The connections that a web process accepts."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx2
import pytest

from vibetuner.cli.connections import Budget, Clients, LimitedServer, make_config
from vibetuner.config import Settings

BUDGET = Budget(total=16, per_client=2, at_once=8)


def test_one_client_gets_its_share_and_no_more():
    """A client gets its share of connections, and a trusted proxy gets more.

    A closed connection frees its place.
    """
    clients = Clients(BUDGET, trusted="10.0.0.1")
    answers = [clients.admit("192.0.2.1", 0) for _ in range(3)]
    assert answers == ["", "", "429 Too Many Requests"]
    clients.leave("192.0.2.1")
    assert clients.admit("192.0.2.1", 0) == ""
    assert [clients.admit("10.0.0.1", 0) for _ in range(3)] == ["", "", ""]


def test_all_together_get_no_more_than_the_process_has_files(caplog: pytest.LogCaptureFixture):
    """A connection that exceeds the process's limit gets 503, and the log names the cure."""
    assert Clients(BUDGET, trusted="").admit("192.0.2.1", 16) == "503 Service Unavailable"
    assert caplog.messages == [
        "refused a connection, as 16 are open. Raise the limit of open files: ulimit -n"
    ]


def test_a_connection_without_an_address_is_counted_for_no_client():
    """A connection without an address counts for no client, as over a Unix socket."""
    clients = Clients(BUDGET, trusted="")
    assert [clients.admit(None, 0) for _ in range(3)] == ["", "", ""]
    clients.leave(None)
    assert clients.admit("192.0.2.1", 0) == ""


@pytest.mark.parametrize(
    ("size", "reads"),
    [(40_000, False), (600_000, False), (600_000, True)],
    ids=["has its last bytes to read", "has much to read", "reads slowly"],
)
async def test_a_stop_waits_for_a_client_that_reads_and_for_no_other(
    stand_in: Any, size: int, reads: bool
):
    """A response goes on while its client reads; one that doesn't does not hold up a stop."""
    stand_in()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = LimitedServer(make_config(answer, Settings(), timeout_graceful_shutdown=300))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, listener.getsockname())
        await loop.sock_sendall(client, f"GET /{size} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = len((await loop.sock_recv(client, 4096)).partition(b"\r\n\r\n")[2])

        server.should_exit = True
        async with asyncio.timeout(60):
            while reads and (data := await loop.sock_recv(client, 65_536)):
                received += len(data)
                await asyncio.sleep(0.01)
            await serving
    assert not reads or received == size


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_proxy_is_trusted_by_either_address_of_a_listener_for_both(
    stand_in: Any, host: str
):
    """On ``::``, a proxy that connects by IPv4 is trusted like one that connects by IPv6.

    The app sees the visitor's address and scheme, and a client that no proxy forwards by its own.
    """
    stand_in()
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    server = LimitedServer(make_config(name_client, Settings()))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    async with httpx2.AsyncClient() as client:
        url = f"http://[{host}]" if ":" in host else f"http://{host}"
        url = f"{url}:{listener.getsockname()[1]}"
        answers = [(await client.get(url, headers=sent)).text for sent in (forwarded, {})]
    server.should_exit = True
    await serving
    assert answers == ["https 203.0.113.9", f"http {host}"]


async def name_client(scope: Any, _receive: Any, send: Any) -> None:
    """Answer with the scheme and the address of the client."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = f"{scope['scheme']} {scope['client'][0]}".encode()
    await send({"type": "http.response.body", "body": body})


async def answer(scope: Any, _receive: Any, send: Any) -> None:
    """Answer ``GET /1000`` with a thousand bytes."""
    size = int(scope["path"][1:])
    headers = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for at in range(0, size, 100_000):
        body, more = bytes(min(100_000, size - at)), at + 100_000 < size
        await send({"type": "http.response.body", "body": body, "more_body": more})
