"""A client opens, sends and holds as much as it can, while a well-behaved one is served."""

from __future__ import annotations

import hashlib
import re
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import pytest

from tests.abuse.conftest import TOKEN, ListeningPart, Shop, WithinLimits
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARSERS = pytest.mark.parametrize("web", ["httptools", "h11"], indirect=True)
HEAD = b"GET /name HTTP/1.1\r\nHost: shop.example\r\nX-Slow: "
BOUNDARY = "frontier"
PART = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
).encode()
CHUNKED = (
    b"POST /%b HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
)
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def read_all(connection: socket.socket) -> bytes:
    """Return everything that a connection sends until it is closed or reset."""
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def test_unfinished_heads_of_one_client_block_no_other_client(
    web: ListeningPart, within_limits: WithinLimits
):
    """Unfinished heads of one client get 408 after ten seconds, or 429 if they are too many."""
    began = time.monotonic()
    with ExitStack() as stack, within_limits(web):
        connections = [stack.enter_context(web.connect()) for _ in range(400)]
        for connection in connections:
            with suppress(OSError):
                connection.send(HEAD)
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(read_all, connections))
    took = time.monotonic() - began

    late = [answer for answer in answers if answer.startswith(b"HTTP/1.1 408")]
    refused = [answer for answer in answers if b"429" in answer[:20] or not answer]
    assert 10 <= len(late) <= 66
    assert len(late) + len(refused) == 400
    assert all(b"Retry-After: " in answer for answer in refused if answer)
    assert took < 30
    assert "refused a connection of 127.0.0.2" in web.command.output


@PARSERS
def test_missing_bodies_are_not_waited_for(web: ListeningPart, within_limits: WithinLimits):
    """A missing body gets 408 after twenty seconds, plus one for each 500 bytes received."""
    head = (
        "POST /signup HTTP/1.1\r\nHost: shop\r\nContent-Length: 900000\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\n\r\n"
    ).encode()
    with ExitStack() as stack, within_limits(web):
        connections = [stack.enter_context(web.connect()) for _ in range(20)]
        for connection in connections:
            connection.send(head + PART)
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(read_all, connections))
        took = time.monotonic() - began

    assert 15 < took < 35
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}


def test_a_body_that_is_too_large_fills_neither_memory_nor_disk(
    web: ListeningPart, within_limits: WithinLimits
):
    """A body of half a gigabyte gets 413, by its Content-Length or once too much has arrived."""
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        yield PART
        for _ in range(540):
            sent += 1_000_000
            yield b"x" * 1_000_000

    with within_limits(web, peak=200_000_000) as seen:
        announced = {**FORM, "Content-Length": str(len(PART) + 540_000_000)}
        for headers in (announced, FORM):
            with suppress(httpx2.TransportError):  # it may hang up before all is sent
                answer = httpx2.post(
                    f"{web.url}/signup", content=chunks(), headers=headers, timeout=60
                )
                assert answer.status_code == 413

    assert sent > 0
    assert seen.disk < 1_000_000


def test_a_route_may_allow_a_larger_body(web: ListeningPart, within_limits: WithinLimits):
    """A route's ``max_body_size`` replaces the general limit."""
    content = b"x" * 2_000_000
    with within_limits(web):
        answers = [
            httpx2.post(f"{web.url}{path}", files={"file": ("a", content)}, timeout=30)
            for path in ("/signup", "/large")
        ]
    assert [answer.status_code for answer in answers] == [413, 200]
    assert answers[1].json() == 2_000_000


@PARSERS
@pytest.mark.parametrize("length", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
def test_the_response_to_an_unread_body_ends_its_connection(
    web: ListeningPart, within_limits: WithinLimits, length: str
):
    """A connection ends with a response before a large body; it is not left open, and unheard.

    A proxy would send the next visitor's request on it.
    """
    body = PART + b"x" * (3_000_000 - len(PART))
    if "chunked" in length:
        body = b"".join(b"10000\r\n%b\r\n" % body[:65536] for _ in range(45))
    head = f"POST /signup HTTP/1.1\r\nHost: shop\r\n{length}\r\n"
    late = web.command.output.count("whose request did not come")
    with within_limits(web), web.connect() as connection:
        connection.sendall(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n".encode() + body)
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 413"), answer
    assert web.command.output.count("whose request did not come") == late


@PARSERS
def test_malformed_requests_fill_no_log(web: ListeningPart, within_limits: WithinLimits):
    """A thousand malformed requests get 400 each, and their log lines are limited."""
    with within_limits(web):
        for _ in range(1000):
            with web.connect() as connection:
                connection.send(b"NONSENSE\r\n\r\n")
                assert read_all(connection).startswith(b"HTTP/1.1 400")


@PARSERS
def test_malformed_bodies_fill_no_log(web: ListeningPart, within_limits: WithinLimits):
    """Each malformed body gets exactly one response, and none causes a traceback."""
    head = "{} /signup HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n"
    with within_limits(web):
        for n in range(200):
            with web.connect() as connection:
                connection.send(head.format(("POST", "HEAD", "PUT")[n % 3]).encode())
                connection.send(b"no length\r\n")
                answer = read_all(connection)
                assert answer.startswith(b"HTTP/1.1 4")
                assert answer.count(b"HTTP/1.1") == 1

    assert "Traceback" not in web.command.output


@PARSERS
@pytest.mark.parametrize(
    ("start", "piece", "answers"),
    [
        (b"", b"GET /health HTTP/1.1\r\nHost: shop\r\n\r\n" * 1000, {b"", b"HTTP/1.1 200"}),
        (HEAD, b"x" * 65_536, {b"", b"HTTP/1.1 431", b"HTTP/1.1 400"}),
        (CHUNKED % b"signup", b"1\r\nx\r\n" * 10_000, {b"", b"HTTP/1.1 400"}),
        (CHUNKED % b"nothing", b"10000\r\n%b\r\n" % (b"x" * 65_536), {b"", b"HTTP/1.1 404"}),
    ],
    ids=["requests", "head", "tiny chunks", "unread body"],
)
def test_what_never_ends_uses_neither_memory_nor_time(
    web: ListeningPart, within_limits: WithinLimits, start: bytes, piece: bytes, answers: set[bytes]
):
    """Requests that nobody waits for, and endless heads and bodies, are refused or cut off."""

    def flood(connection: socket.socket) -> bytes:
        connection.settimeout(5)
        with suppress(OSError):
            connection.sendall(start)
            for _ in range(400):
                connection.sendall(piece)
        with suppress(OSError):
            return connection.recv(12)
        return b""

    with ExitStack() as stack, within_limits(web, peak=200_000_000):
        connections = [stack.enter_context(web.connect()) for _ in range(5)]
        with ThreadPoolExecutor(5) as pool:
            received = list(pool.map(flood, connections))

    assert {*received} <= answers
    assert "Traceback" not in web.command.output


def test_event_streams_of_one_client_block_no_other_client(shop: Shop, within_limits: WithinLimits):
    """One client gets as many streams as a client may have, and then 429 or 503."""
    web = shop.web
    head = b"GET /events HTTP/1.1\r\nHost: shop.example\r\n\r\n"
    with ExitStack() as stack, within_limits(*shop.parts):
        connections = [stack.enter_context(web.connect()) for _ in range(400)]
        answers = []
        for connection in connections:
            with suppress(OSError):
                connection.send(head)
        for connection in connections:
            with suppress(ConnectionResetError):
                answers.append(connection.recv(4096))

    served = [answer for answer in answers if answer.startswith(b"HTTP/1.1 200")]
    assert 10 <= len(served) <= 100
    refused = [answer for answer in answers if answer and answer not in served]
    assert all(answer[9:12] in {b"429", b"503"} for answer in refused)
    assert all(b"retry-after: " in answer.lower() for answer in refused)


def test_clients_that_do_not_read_use_no_memory(shop: Shop, within_limits: WithinLimits):
    """Clients that ask for a long history of large events, and read nothing, use no memory."""
    web = shop.web
    head = b"GET /events HTTP/1.1\r\nHost: shop.example\r\nLast-Event-ID: 1-0\r\n\r\n"
    with ExitStack() as stack, within_limits(*shop.parts, peak=250_000_000):
        for _ in range(20):
            news = httpx2.post(f"{web.url}/news", params={"size": 200_000}, timeout=30)
            assert news.status_code == 202
        for _ in range(20):
            stack.enter_context(web.connect()).sendall(head)
        for _ in range(100):
            news = httpx2.post(f"{web.url}/news", params={"size": 200_000}, timeout=30)
            assert news.status_code == 202
        large = httpx2.post(f"{web.url}/news", params={"size": 300_000}, timeout=30)

    assert large.status_code == 500
    wait_until(lambda: "SSE_EVENT_BYTES" in web.command.output, what=lambda: "the log line")


def test_a_full_disk_is_a_503_until_there_is_room(shop: Shop, within_limits: WithinLimits):
    """While nothing can be written, readiness and large uploads are a 503; later, all is as before.

    A body that fits into memory is taken all the same.
    """
    web = shop.web

    def ask() -> list[int]:
        ready = httpx2.get(f"{web.url}/health/ready", timeout=30)
        uploads = [
            httpx2.post(f"{web.url}{path}", files={"file": ("a", b"x" * size)}, timeout=30)
            for path, size in (("/signup", 500_000), ("/large", 3_000_000))
        ]
        assert all(one.headers["Retry-After"] for one in uploads if one.status_code == 503)
        return [answer.status_code for answer in (ready, *uploads)]

    with within_limits(*shop.parts):
        before = ask()
        allowed = resource.prlimit(web.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        during = ask()
        resource.prlimit(web.pid, resource.RLIMIT_FSIZE, allowed)
        after = ask()

    assert before == after == [200, 200, 200]
    assert during == [503, 200, 503]
    assert "Traceback" not in web.command.output


def test_only_what_was_checked_at_the_build_is_served(
    web: ListeningPart, within_limits: WithinLimits, project: Path
):
    """htmx's files have the hashes that the build requires, and no path leads out of their folder.

    The process writes nothing into its project, which is read-only in a container.
    """
    build = (ROOT / "runtime" / "hatch_build.py").read_text("utf-8")
    hashes = re.findall(r'"vibetuner_htmx/([\w.-]+)",\s+"([0-9a-f]{64})"', build)
    before = {path: path.stat().st_mtime_ns for path in written(project)}

    with within_limits(web):
        for name, expected in hashes:
            served = httpx2.get(f"{web.url}/_vibetuner/{name}", timeout=30)
            assert hashlib.sha256(served.content).hexdigest() == expected
        for step in ("..", "%2e%2e", "..%2f..", "....//", "..%5c..", "%00", "%252e%252e"):
            for base in ("/_vibetuner", "/static", "", "/debug"):
                with web.connect() as connection:
                    path = f"{base}/{f'{step}/' * 4}etc/passwd"
                    connection.send(f"GET {path} HTTP/1.0\r\nHost: shop\r\n\r\n".encode())
                    answer = read_all(connection)
                    assert answer.split()[1][:1] == b"4", path
                    assert b"root:" not in answer

    assert len(hashes) == 2
    assert {path: path.stat().st_mtime_ns for path in written(project)} == before


def written(project: Path) -> set[Path]:
    """Return the files of a project, without bytecode, and without its own data."""
    return {
        path
        for path in project.rglob("*")
        if path.is_file() and not {"__pycache__", ".vibetuner"} & {*path.parts}
    }


def test_wrong_tokens_lock_nobody_out(web: ListeningPart, within_limits: WithinLimits):
    """Two hundred wrong tokens of one visitor are refused, while the right token still unlocks."""

    def guess(token: str) -> int:
        return client.post("/_unlock-debug", data={"token": token}).status_code

    with (
        httpx2.Client(base_url=web.url, timeout=60) as client,
        within_limits(web),
        ThreadPoolExecutor(20) as pool,
    ):
        guesses = [pool.submit(guess, f"guess-{n}") for n in range(200)]
        unlocked = guess(TOKEN)
        answers = {one.result() for one in guesses}

    assert answers == {404}
    assert unlocked == 303
    assert "refused a token for /debug from 127.0.0.1" in web.command.output
