"""The gate before ``/debug``: who may pass, and who learns nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from itsdangerous import URLSafeTimedSerializer
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from tests.valkey import Valkey
from tests.waiting import eventually
from vibetuner.config import Settings, get_settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.frontend.app import create_app
from vibetuner.frontend.debug.gate import COOKIE, Gate, is_same_host
from vibetuner.frontend.debug.tickets import LIFETIME_SECONDS, get_revoked, issue, read
from vibetuner.tasks.worker import get_worker

TOKEN = "a token that nobody guesses"
OPENED = "/debug/own"
OURS = {"Origin": "https://shop.example"}

ROUTES = """
    from fastapi import APIRouter, Request, WebSocket

    router = APIRouter()


    @router.get("/debug/own")
    async def look() -> str:
        return "open"


    @router.post("/debug/own")
    async def change(request: Request) -> str:
        return f"changed to {(await request.body()).decode()}"


    @router.websocket("/debug/socket")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()


    @router.get("/debugger")
    async def neighbour() -> str:
        return "not behind the gate"
"""
TUNE = """
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(routes=[router])
"""


def production(**changes: Any) -> Settings:
    return Settings(
        **{
            "environment": "production",
            "secret_key": "k" * 40,
            "debug_access_token": TOKEN,
            "redis_key_prefix": "shop",
            **changes,
        }
    )


@pytest.fixture
def project(stand_in) -> None:
    stand_in({"routes.py": ROUTES}, tune=TUNE)


@pytest.fixture
async def client(project: None):
    with using_settings(production()):
        async with visiting() as client:
            yield client


async def unlock(client: AsyncClient, token: str = TOKEN, **headers: str) -> Response:
    return await client.get("/_unlock-debug", params={"token": token}, headers=headers)


@asynccontextmanager
async def visiting() -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(create_app())
    async with AsyncClient(transport=transport, base_url="https://shop.example") as client:
        yield client


@contextmanager
def now_with(**changes: Any) -> Iterator[None]:
    with using_settings(production(**changes)):
        yield


async def test_without_a_ticket_every_path_is_missing(client: AsyncClient):
    """Without a ticket, a path below /debug gets the 404 of a missing path, uncached."""
    missing = await client.get("/nowhere")
    for path in (OPENED, "/debug", "/debug/", "/debug/tasks", "//debug/own", "/debug/missing"):
        answer = await client.get(f"https://shop.example{path}")
        assert (answer.status_code, answer.text) == (404, missing.text), path
        assert answer.headers["cache-control"] == "no-store"
        assert "noindex" in answer.headers["x-robots-tag"]

    assert (await client.post(OPENED)).status_code == 404
    assert (await client.get("/debugger")).text == '"not behind the gate"'


async def test_the_token_opens_the_gate_and_leaves_the_address_bar(client: AsyncClient):
    """The token leads to a redirect with a cookie that no script and no other site can use."""
    answer = await unlock(client)

    assert answer.status_code == 303
    assert TOKEN not in answer.headers["location"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    cookie = SimpleCookie(answer.headers["set-cookie"])[COOKIE]
    assert cookie["httponly"]
    assert cookie["secure"]
    assert cookie["samesite"] == "strict"
    assert cookie["max-age"] == str(8 * 3600)
    opened = await client.get(OPENED)
    assert opened.text == '"open"'
    assert opened.headers["cache-control"] == "no-store"


async def test_a_link_in_a_chat_opens_it_too(client: AsyncClient):
    """A link on another site leads to a page that refreshes itself.

    A Strict cookie does not survive a redirect that another site began.
    """
    answer = await unlock(client, **{"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 200
    assert 'http-equiv="refresh" content="0; url=/debug/tasks"' in answer.text
    assert TOKEN not in answer.text
    assert COOKIE in answer.headers["set-cookie"]


async def test_a_wrong_token_is_a_404_that_costs_time(client: AsyncClient):
    """A wrong token gets a 404 without a ticket, after a delay."""
    for token in (TOKEN[:-1], TOKEN + "x", "\ud800"):
        began = time.monotonic()
        params = f"token={token}" if token.isascii() else "token=%ED%A0%80"
        answer = await client.get(f"/_unlock-debug?{params}")
        assert answer.status_code == 404
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        assert time.monotonic() - began > 0.4


async def test_without_debug_access_token_there_is_no_way_in(client: AsyncClient):
    """Without DEBUG_ACCESS_TOKEN, neither an empty token nor an earlier ticket opens the gate."""
    await unlock(client)
    with now_with(debug_access_token=None):
        assert (await unlock(client, "")).status_code == 404
        assert (await client.get("/_unlock-debug")).status_code == 404
        assert (await client.get(OPENED)).status_code == 404


async def test_locking_removes_the_ticket(client: AsyncClient):
    """Locking removes the browser's ticket."""
    await unlock(client)

    assert (await client.post("/_lock-debug", headers=OURS)).status_code == 303
    assert (await client.get(OPENED)).status_code == 404


@pytest.mark.parametrize("redis_url", ["running", None, "frozen"])
async def test_a_copy_of_a_locked_ticket_is_refused(
    project: None, servers: Lease, tmp_path: Path, redis_url: str | None
):
    """A copy of a locked ticket is refused by every process that shares a Redis.

    Without a Redis, or beside a frozen one, this process refuses it.
    """
    with Valkey(tmp_path) as frozen:
        url = {"running": servers.urls["redis"], "frozen": frozen.url}.get(redis_url or "")
        with using_settings(production(redis_url=url)):
            async with AsyncExitStack() as stack:
                if url:
                    await stack.enter_async_context(get_worker())
                await refuses_copies(stack, frozen if redis_url == "frozen" else None)


async def refuses_copies(stack: AsyncExitStack, frozen: Valkey | None) -> None:
    client = await stack.enter_async_context(visiting())
    await unlock(client)
    ticket = client.cookies[COOKIE]
    other = issue(get_settings())
    if frozen:
        stack.enter_context(frozen.frozen())

    assert (await client.post("/_lock-debug", headers=OURS)).status_code == 303
    with_copy = {"Cookie": f"{COOKIE}={ticket}"}
    assert (await client.get(OPENED, headers=with_copy)).status_code == 404
    assert (await client.get(OPENED, headers={"Cookie": f"{COOKIE}={other}"})).status_code == 200
    if get_settings().redis_url and not frozen:
        get_revoked.cache_clear()  # as another process
        assert (await client.get(OPENED, headers=with_copy)).status_code == 404
        left = await get_worker().redis.pttl(f"shop:debug:revoked:{read_id(ticket)}")
        assert 0 < left <= (LIFETIME_SECONDS + 1) * 1000


def read_id(ticket: str) -> str:
    found = read(get_settings(), ticket)
    assert found is not None
    return found.id


@pytest.mark.parametrize(
    "changes",
    [{"secret_key": "another" * 9}, {"debug_access_token": "another"}, {"redis_key_prefix": "b"}],
    ids=["SECRET_KEY", "DEBUG_ACCESS_TOKEN", "another project"],
)
async def test_a_ticket_of_other_secrets_or_of_another_project_is_refused(
    client: AsyncClient, changes: dict[str, str]
):
    """A change of a secret ends every ticket, and SECRET_KEY_PREVIOUS does not save it."""
    await unlock(client)
    assert (await client.get(OPENED)).status_code == 200

    with now_with(**changes, secret_key_previous="k" * 40):
        assert (await client.get(OPENED)).status_code == 404


async def test_a_forged_ticket_is_refused(client: AsyncClient):
    """A ticket that is forged, cut short or altered is refused."""
    ticket = issue(production())
    turned = ("A" if ticket[0] != "A" else "B") + ticket[1:]
    forged = URLSafeTimedSerializer("k" * 40, salt="shop").dumps("x")
    for value in (forged, ticket[: len(ticket) // 2], turned, "", "1", "."):
        answer = await client.get(OPENED, headers={"Cookie": f"{COOKIE}={value}"})
        assert answer.status_code == 404, value


def test_a_ticket_ends_after_eight_hours(fresh: None):
    """A ticket is valid for eight hours from its issue, and not before."""
    settings = production()
    ticket, now = issue(settings), datetime.now(UTC)
    assert read(settings, ticket)
    assert read(settings, ticket, now + timedelta(seconds=LIFETIME_SECONDS - 1))
    assert not read(settings, ticket, now + timedelta(seconds=LIFETIME_SECONDS + 2))
    assert read(settings, ticket, now - timedelta(seconds=5))  # another machine, which is behind
    assert not read(settings, ticket, now - timedelta(minutes=2))


async def test_what_changes_something_must_come_from_our_own_pages(client: AsyncClient):
    """A change below /debug needs, beside a ticket, the Origin of our own pages.

    The route gets its body.
    """
    await unlock(client)
    for headers in (
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://shop.example.evil.example"},
        {"Origin": "https://shop.example:8443"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = await client.post(OPENED, headers=headers)
        assert answer.status_code == 403, headers
        assert "Host header" in answer.text

    for headers in ({"Origin": "https://shop.example"}, {"Sec-Fetch-Site": "same-origin"}):
        answer = await client.post(OPENED, headers=headers, content="own")
        assert answer.text == '"changed to own"'


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (production(environment="development", debug=True), 200),
        (production(environment="development", debug=False), 404),
        (production(environment="production", debug=True), 404),
        (production(environment="test", debug=False), 404),
    ],
    ids=["development", "without DEBUG", "production with DEBUG", "test"],
)
async def test_debug_alone_opens_it_in_development_only(
    client: AsyncClient, settings: Settings, status: int
):
    """DEBUG without a ticket opens the gate in development only, and not in production."""
    with using_settings(settings):
        assert (await client.get(f"http://localhost:8000{OPENED}")).status_code == status


async def test_an_open_gate_still_wants_our_own_pages_for_a_change(client: AsyncClient):
    """An open gate in development refuses a change from another site."""
    with now_with(environment="development", debug=True):
        foreign = {"Origin": "https://evil.example"}
        assert (
            await client.post(f"http://localhost:8000{OPENED}", headers=foreign)
        ).status_code == 403


async def test_a_websocket_passes_the_same_gate(project: None):
    """A WebSocket without a ticket is refused in its handshake."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    with using_settings(production()):
        scope = {
            "type": "websocket",
            "path": "/debug/socket",
            "headers": [(b"host", b"shop.example")],
            "query_string": b"",
            "subprotocols": [],
        }
        await create_app()(scope, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_the_gate_gives_the_projects_own_404(stand_in):
    """The gate answers with the project's own 404, so that nothing sets it apart."""
    stand_in({"routes.py": ROUTES}, tune=TUNE)
    with using_settings(production()):
        app = create_app()

        @app.exception_handler(404)
        def sorry(request: object, error: object) -> Any:
            from fastapi.responses import PlainTextResponse

            return PlainTextResponse("we looked everywhere", 404)

        async with AsyncClient(transport=ASGITransport(app), base_url="https://a") as client:
            assert (await client.get(OPENED)).text == "we looked everywhere"


async def test_wrong_tokens_keep_nobody_out(client: AsyncClient, caplog: pytest.LogCaptureFixture):
    """Forty wrong tokens at once don't hold up the right one, and are logged with the address."""
    guesses = [unlock(client, f"guess number {number}") for number in range(40)]
    began = time.monotonic()
    answers = await asyncio.gather(*guesses, unlock(client))

    assert [answer.status_code for answer in answers] == [404] * 40 + [303]
    assert time.monotonic() - began < 15  # one after the other, they would take twenty
    lines = [line for line in caplog.messages if "refused a token" in line]
    assert 1 <= len(lines) <= 10
    assert lines[0].startswith("refused a token for /debug from 127.0.0.1")
    assert "guess number" not in caplog.text


async def test_the_token_can_be_typed_into_a_form(client: AsyncClient):
    """The token can be typed into a form, so that it is in no address, history or log."""
    page = await client.get("/_unlock-debug")
    assert page.status_code == 200
    assert '<form method="post">' in page.text

    wrong = await client.post("/_unlock-debug", data={"token": "a token that is wrong"})
    assert wrong.status_code == 404
    right = await client.post("/_unlock-debug", data={"token": TOKEN})
    assert right.status_code == 303
    assert (await client.get(OPENED)).text == '"open"'


async def test_no_link_and_no_other_site_locks(client: AsyncClient):
    """The ticket is removed only by a POST from our own pages."""
    await unlock(client)

    assert (await client.get("/_lock-debug")).status_code == 405
    foreign = {"Origin": "https://evil.example"}
    assert (await client.post("/_lock-debug", headers=foreign)).status_code == 403
    assert (await client.get(OPENED)).status_code == 200


async def test_a_ticket_locked_while_redis_was_away_stays_locked(project: None, tmp_path: Path):
    """A ticket that was locked while Redis was frozen is refused everywhere once it answers."""
    with Valkey(tmp_path) as valkey, using_settings(production(redis_url=valkey.url)):
        async with get_worker(), visiting() as client:
            await unlock(client)
            copy = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
            with valkey.frozen():
                assert (await client.post("/_lock-debug", headers=OURS)).status_code == 303

            get_revoked.cache_clear()  # as another process

            async def is_refused() -> bool:
                return (await client.get(OPENED, headers=copy)).status_code == 404

            assert await eventually(is_refused)


@pytest.mark.parametrize(
    ("host", "client", "status"),
    [
        ("localhost:8000", "127.0.0.1", 200),
        ("shop.localhost:8000", "127.0.0.1", 200),
        ("[::1]:8000", "::1", 200),
        ("evil.example:8000", "127.0.0.1", 404),
        ("192.168.1.5:8000", "192.168.1.9", 404),
        ("localhost:8000", "192.168.1.9", 404),
    ],
)
async def test_development_opens_the_gate_to_its_own_machine_only(
    project: None, host: str, client: str, status: int
):
    """The gate in development is open to a local host name on this machine only."""
    with using_settings(production(environment="development", debug=True)):
        transport = ASGITransport(create_app(), client=(client, 1234))
        async with AsyncClient(transport=transport, base_url=f"http://{host}") as browser:
            assert (await browser.get(OPENED)).status_code == status


async def test_a_containers_port_that_is_published_locally_counts_as_local(project: None):
    """PUBLISHED_LOCALLY trusts the address of the container engine, but no foreign host name."""
    settings = production(environment="development", debug=True, published_locally=True)
    with using_settings(settings):
        transport = ASGITransport(create_app(), client=("172.18.0.1", 1234))
        async with AsyncClient(transport=transport) as browser:
            assert (await browser.get(f"http://127.0.0.1:8000{OPENED}")).status_code == 200
            assert (await browser.get(f"http://evil.example:8000{OPENED}")).status_code == 404


async def handshake(**headers: str) -> str:
    """Return the type of the first answer to a WebSocket below ``/debug``."""
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect" if not sent else "websocket.disconnect"}

    scope = {
        "type": "websocket",
        "path": "/debug/socket",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "query_string": b"",
        "subprotocols": [],
    }
    await create_app()(scope, receive, send)
    return sent[0]


async def test_a_websocket_needs_a_ticket_and_our_own_page(project: None):
    """A WebSocket needs a ticket and the Origin of our own pages in its handshake."""
    with using_settings(production()):
        own = {"host": "shop.example", "cookie": f"{COOKIE}={issue(get_settings())}"}
        assert await handshake(**own, origin="https://shop.example") == "websocket.accept"
        assert await handshake(**own, origin="https://evil.example") == "websocket.close"
        assert await handshake(**own) == "websocket.close"


@pytest.mark.parametrize(
    ("path", "root", "status"),
    [("/debug", "", 404), ("/shop/debug", "/shop", 404), ("/shop/debug", "", 200)],
)
async def test_a_gate_before_any_app_has_an_answer_of_its_own(path: str, root: str, status: int):
    """A gate before an app without handlers answers 404 as JSON, also below a root path."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("the app")(scope, receive, send)

    gate = Gate(app, production)
    transport = ASGITransport(gate, root_path=root)
    async with AsyncClient(transport=transport, base_url="https://shop.example") as client:
        answer = await client.get(path)
    assert answer.status_code == status
    if status == 404:
        assert answer.json() == {"detail": "Not Found"}
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        ("https://shop.example", "shop.example", True),
        ("https://SHOP.example", "shop.EXAMPLE", True),
        ("https://shop.example:8443", "shop.example:8443", True),
        ("https://shop.example", "shop.example:8443", False),
        ("", "", False),
        ("", "shop.example", False),
        ("null", "shop.example", False),
        ("https://[", "shop.example", False),
        ("https://shop.example@evil.example", "shop.example", False),
    ],
)
def test_an_origin_is_of_the_host_that_is_asked(origin: str, host: str, is_same: bool):
    """An origin and a host are compared without regard to case, and none equals none."""
    headers = [(b"origin", origin.encode()), (b"host", host.encode())]
    scope = {"type": "http", "headers": [(name, value) for name, value in headers if value]}
    assert is_same_host(HTTPConnection(scope)) is is_same


@pytest.mark.parametrize("kind", [404, HTTPException])
@pytest.mark.parametrize("is_async", [False, True])
async def test_the_projects_own_404_gets_the_request(stand_in, kind: Any, is_async: bool):
    """The project's 404 handler gets the request at the gate, with its path and body."""
    stand_in({"routes.py": ROUTES}, tune=TUNE)
    with using_settings(production()):
        app = create_app()
        # The app's default for an exception's class would stand before the project's.
        app.exception_handlers.clear()

        def sync(request: Any, error: Any) -> Any:
            return PlainTextResponse(f"{request.url.path} {error.status_code}", 404)

        async def reading(request: Any, error: Any) -> Any:
            body = (await request.body()).decode()
            return PlainTextResponse(f"{request.url.path} {error.status_code} {body}", 404)

        app.add_exception_handler(kind, reading if is_async else sync)
        async with AsyncClient(transport=ASGITransport(app), base_url="https://a") as client:
            answer = await client.post(OPENED, content="sent")
            assert answer.text == f"{OPENED} 404" + (" sent" if is_async else "")


async def test_tests_with_debug_pass_from_any_host(client: AsyncClient):
    """DEBUG opens the gate in tests to any host name, and in development only to local ones."""
    with now_with(environment="test", debug=True):
        assert (await client.get(f"http://testserver{OPENED}")).status_code == 200
    with now_with(environment="development", debug=True):
        assert (await client.get(f"http://testserver{OPENED}")).status_code == 404
