"""The gate before ``/debug``: who may pass, and who learns nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from itsdangerous import URLSafeTimedSerializer

from tests.valkey import Valkey
from vibetuner.config import Settings, get_settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.frontend.app import create_app
from vibetuner.frontend.debug.gate import COOKIE
from vibetuner.frontend.debug.guesses import Guesses, TooManyWaiting
from vibetuner.frontend.debug.revoked import get_revoked
from vibetuner.frontend.debug.tickets import LIFETIME_SECONDS, issue, read
from vibetuner.tasks.worker import get_worker

TOKEN = "a token that nobody guesses"
OPENED = "/debug/own"

ROUTES = """
    from fastapi import APIRouter, WebSocket

    router = APIRouter()


    @router.get("/debug/own")
    async def look() -> str:
        return "open"


    @router.post("/debug/own")
    async def change() -> str:
        return "changed"


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
        transport = ASGITransport(create_app())
        async with AsyncClient(transport=transport, base_url="https://shop.example") as client:
            yield client


async def unlock(client: AsyncClient, token: str = TOKEN, **headers: str) -> Response:
    return await client.get("/_unlock-debug", params={"token": token}, headers=headers)


@contextmanager
def now_with(**changes: Any) -> Iterator[None]:
    with using_settings(production(**changes)):
        yield


async def test_without_a_ticket_there_is_nothing_there(client: AsyncClient):
    """The answer is that of any path that does not exist; only never kept."""
    missing = await client.get("/nowhere")
    for path in (OPENED, "/debug", "/debug/", "/debug/tasks", "//debug/own", "/debug/missing"):
        answer = await client.get(f"https://shop.example{path}")
        assert (answer.status_code, answer.text) == (404, missing.text), path
        assert answer.headers["cache-control"] == "no-store"
        assert "noindex" in answer.headers["x-robots-tag"]

    assert (await client.post(OPENED)).status_code == 404
    assert (await client.get("/debugger")).text == '"not behind the gate"'


async def test_the_token_opens_the_gate_and_leaves_the_address_bar(client: AsyncClient):
    """A redirect hands the browser a cookie that no script and no other site can use."""
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
    """A Strict cookie does not survive a redirect that another site began: a page goes on."""
    answer = await unlock(client, **{"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 200
    assert 'http-equiv="refresh" content="0; url=/debug/tasks"' in answer.text
    assert TOKEN not in answer.text
    assert COOKIE in answer.headers["set-cookie"]


async def test_a_wrong_token_is_a_404_that_costs_time(client: AsyncClient):
    """And gives no ticket, however near it came."""
    for token in (TOKEN[:-1], TOKEN + "x", "", "\ud800"):
        began = time.monotonic()
        params = f"token={token}" if token.isascii() else "token=%ED%A0%80"
        answer = await client.get(f"/_unlock-debug?{params}")
        assert answer.status_code == 404
        assert "set-cookie" not in answer.headers
        assert answer.headers["cache-control"] == "no-store"
        assert time.monotonic() - began > 0.4


async def test_without_debug_access_token_there_is_no_way_in(client: AsyncClient):
    """Not with an empty token, and not with a ticket from before it was taken away."""
    await unlock(client)
    with now_with(debug_access_token=None):
        assert (await unlock(client, "")).status_code == 404
        assert (await client.get("/_unlock-debug")).status_code == 404
        assert (await client.get(OPENED)).status_code == 404


async def test_locking_takes_the_ticket_back(client: AsyncClient):
    """The browser's cookie is gone."""
    await unlock(client)

    assert (await client.get("/_lock-debug")).status_code == 303
    assert (await client.get(OPENED)).status_code == 404


@pytest.mark.parametrize("redis_url", ["running", None, "frozen"])
async def test_a_copy_of_a_ticket_is_worth_nothing_once_it_was_taken_back(
    project: None, servers: Lease, tmp_path: Path, redis_url: str | None
):
    """In every process that shares a Redis; without one, or beside one that is silent, in this."""
    with Valkey(tmp_path) as frozen:
        url = {"running": servers.urls["redis"], "frozen": frozen.url}.get(redis_url or "")
        with using_settings(production(redis_url=url)):
            async with AsyncExitStack() as stack:
                if url:
                    await stack.enter_async_context(get_worker())
                await refuses_copies(stack, frozen if redis_url == "frozen" else None)


async def refuses_copies(stack: AsyncExitStack, frozen: Valkey | None) -> None:
    transport = ASGITransport(create_app())
    client = AsyncClient(transport=transport, base_url="https://shop.example")
    await stack.enter_async_context(client)
    await unlock(client)
    ticket = client.cookies[COOKIE]
    other = issue(get_settings())
    if frozen:
        stack.enter_context(frozen.frozen())

    assert (await client.get("/_lock-debug")).status_code == 303
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
    """To change one of the secrets ends every ticket; SECRET_KEY_PREVIOUS does not save it."""
    await unlock(client)
    assert (await client.get(OPENED)).status_code == 200

    with now_with(**changes, secret_key_previous="k" * 40):
        assert (await client.get(OPENED)).status_code == 404


async def test_a_forged_ticket_is_refused(client: AsyncClient):
    """Signed with a guess, cut short, with a bit turned, or with a bare text."""
    ticket = issue(production())
    turned = ticket[:-1] + ("A" if ticket[-1] != "A" else "B")
    forged = URLSafeTimedSerializer("k" * 40, salt="shop").dumps("x")
    for value in (forged, ticket[: len(ticket) // 2], turned, "", "1", "."):
        answer = await client.get(OPENED, headers={"Cookie": f"{COOKIE}={value}"})
        assert answer.status_code == 404, value


def test_a_ticket_ends_after_eight_hours(fresh: None):
    """One second before it is good, and one second after it is not."""
    settings = production()
    ticket, now = issue(settings), datetime.now(UTC)
    assert read(settings, ticket)
    assert read(settings, ticket, now + timedelta(seconds=LIFETIME_SECONDS - 1))
    assert not read(settings, ticket, now + timedelta(seconds=LIFETIME_SECONDS + 2))
    assert not read(settings, ticket, now - timedelta(seconds=2))


async def test_what_changes_something_must_come_from_our_own_pages(client: AsyncClient):
    """A ticket alone is not enough: another site's form carries its Origin."""
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
        assert (await client.post(OPENED, headers=headers)).text == '"changed"'


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
    """A DEBUG that was forgotten in production opens nothing."""
    with using_settings(settings):
        assert (await client.get(OPENED)).status_code == status


async def test_an_open_gate_still_wants_our_own_pages_for_a_change(client: AsyncClient):
    """A page from elsewhere must not steer what runs on a developer's machine."""
    with now_with(environment="development", debug=True):
        foreign = {"Origin": "https://evil.example"}
        assert (await client.post(OPENED, headers=foreign)).status_code == 403


async def test_a_websocket_passes_the_same_gate(project: None):
    """Without a ticket the handshake is refused."""
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
    """A project's page for what is missing is used, so that nothing sets the gate apart."""
    stand_in({"routes.py": ROUTES}, tune=TUNE)
    with using_settings(production()):
        app = create_app()

        @app.exception_handler(404)
        def sorry(request: object, error: object) -> Any:
            from fastapi.responses import PlainTextResponse

            return PlainTextResponse("we looked everywhere", 404)

        async with AsyncClient(transport=ASGITransport(app), base_url="https://a") as client:
            assert (await client.get(OPENED)).text == "we looked everywhere"


async def test_a_clients_guesses_wait_for_each_other():
    """Who asks in parallel gains nothing, and who asks for too many is sent away at once."""
    guesses, order = Guesses(first=0.01, longest=0.02), []

    async def guess(number: int) -> None:
        async with guesses.turn("192.0.2.1"):
            order.append(f"in {number}")
            await guesses.failed("192.0.2.1")
            order.append(f"out {number}")

    outcomes = await asyncio.gather(*(guess(n) for n in range(12)), return_exceptions=True)

    assert order == [f"{way} {n}" for n in range(8) for way in ("in", "out")]
    assert [type(outcome) for outcome in outcomes[8:]] == [TooManyWaiting] * 4
    async with asyncio.timeout(1), guesses.turn("192.0.2.2"):
        pass  # another client does not wait
    assert len(guesses) == 2


async def test_the_memory_of_guessers_is_bounded():
    """Whoever has many addresses fills no memory."""
    guesses = Guesses(first=0)
    for number in range(1500):
        await guesses.failed(f"10.0.{number // 250}.{number % 250}")

    assert len(guesses) == 1000
