"""One client that opens, sends and holds as much as it can, beside one that is honest."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx2
import pytest

from tests.abuse.conftest import FILES, Besieged

pytestmark = pytest.mark.slow

HEAD = b"GET /name HTTP/1.1\r\nHost: shop.example\r\nX-Slow: "
BOUNDARY = "frontier"
PART = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
).encode()
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def read_all(connection: socket.socket) -> bytes:
    """Return all that a connection sends until it ends, be it by a reset."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def test_unfinished_heads_of_one_client_block_no_other_client(besieged: Besieged, honest):
    """It gets a third of the connections at most, and each for ten seconds."""
    began = time.monotonic()
    with ExitStack() as stack, honest():
        connections = [stack.enter_context(besieged.connect()) for _ in range(400)]
        for connection in connections:
            with suppress(OSError):
                connection.send(HEAD)
        time.sleep(2)
        held = besieged.files
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(read_all, connections))
    took = time.monotonic() - began

    assert held < FILES
    late = [answer for answer in answers if answer.startswith(b"HTTP/1.1 408")]
    refused = [answer for answer in answers if b"429" in answer[:20] or not answer]
    assert 10 <= len(late) <= 66
    assert len(late) + len(refused) == 400
    assert all(b"Retry-After: " in answer for answer in refused if answer)
    assert took < 30
    assert besieged.log_bytes < 5_000
    assert "refused a connection of 127.0.0.2" in besieged.command.output


def test_missing_bodies_are_not_waited_for(besieged: Besieged, honest):
    """A body has twenty seconds, and one more for each 500 bytes."""
    head = (
        "POST /signup HTTP/1.1\r\nHost: shop\r\nContent-Length: 900000\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\n\r\n"
    ).encode()
    with ExitStack() as stack, honest():
        connections = [stack.enter_context(besieged.connect()) for _ in range(20)]
        for connection in connections:
            connection.send(head + PART)
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(read_all, connections))
        took = time.monotonic() - began

    assert 15 < took < 35
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}
    assert besieged.log_bytes < 5_000


def test_a_body_that_is_too_large_fills_neither_memory_nor_disk(besieged: Besieged, honest):
    """Half a gigabyte is refused by its announced length, and by its bytes where it has none."""
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        yield PART
        for _ in range(540):
            sent += 1_000_000
            yield b"x" * 1_000_000

    with honest():
        announced = {**FORM, "Content-Length": str(len(PART) + 540_000_000)}
        for headers in (announced, FORM):
            with suppress(httpx2.TransportError):  # it may hang up before all is sent
                answer = httpx2.post(
                    f"{besieged.url}/signup", content=chunks(), headers=headers, timeout=60
                )
                assert answer.status_code == 413

    assert sent > 0
    assert besieged.peak_mb < 200
    assert sum(file.stat().st_size for file in besieged.temporary.rglob("*")) < 1_000_000


def test_a_route_may_take_more(besieged: Besieged):
    """MAX_BODY is for the others; a route has its own limit."""
    content = b"x" * 2_000_000
    answers = [
        httpx2.post(f"{besieged.url}{path}", files={"file": ("a", content)}, timeout=30)
        for path in ("/signup", "/large")
    ]
    assert [answer.status_code for answer in answers] == [413, 200]
    assert answers[1].json() == 2_000_000


def test_nonsense_fills_no_log(besieged: Besieged, honest):
    """A thousand malformed requests are one line a minute."""
    with honest():
        for _ in range(1000):
            with besieged.connect() as connection:
                connection.send(b"NONSENSE\r\n\r\n")
                assert read_all(connection).startswith(b"HTTP/1.1 400")

    assert besieged.log_bytes < 5_000
