"""Errors of a project's pages: HTML for people, JSON for programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from vibetuner.config import Settings, using_settings
from vibetuner.frontend.app import create_app
from vibetuner.resources.sql import open_sql

NOTHING = Settings(environment="test", redis_url=None, mongodb_url=None, database_url=None)
IN_PRODUCTION = NOTHING.model_copy(update={"environment": "production"})
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
TUNE = """
    from fastapi import APIRouter, HTTPException
    from vibetuner import VibetunerApp
    from vibetuner.errors import ServiceUnavailable

    router = APIRouter()


    @router.get("/private")
    def private() -> None:
        raise HTTPException(403, "Ask <Ann> to let you in.", {"X-Why": "private"})


    @router.get("/broken")
    def broken() -> None:
        raise RuntimeError("a secret of the code")


    @router.get("/away")
    def away() -> None:
        raise ServiceUnavailable("Redis at redis://10.0.0.7 does not answer")


    @router.get("/counted")
    def counted(number: int) -> int:
        return number


    app = VibetunerApp(routes=[router], headers={"X-Frame-Options": None, "X-Shop": "yes"})
"""
TUNE_WITH_SQL = """
    import json

    from fastapi import APIRouter
    from sqlalchemy import text
    from vibetuner import VibetunerApp
    from vibetuner.resources.slots import sql_engine

    router = APIRouter()


    @router.get("/echo/{word}")
    async def echo(word: str) -> str:
        async with sql_engine.get().connect() as connection:
            return await connection.scalar(text("SELECT CAST(:word AS TEXT)"), {"word": word})


    @router.get("/numbers/{number}")
    async def find(number: int) -> list[int]:
        async with sql_engine.get().connect() as connection:
            query = text("SELECT 7 WHERE CAST(:number AS INTEGER) = 7")
            return list(await connection.scalars(query, {"number": number}))


    @router.get("/short/{word}")
    async def shorten(word: str) -> None:
        async with sql_engine.get().connect() as connection:
            await connection.execute(text("CREATE TABLE words (word VARCHAR(5))"))
            await connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})


    @router.get("/json/{word}")
    async def convert(word: str) -> str:
        async with sql_engine.get().connect() as connection:
            query = text("SELECT CAST(:word AS JSONB) ->> 'word'")
            return await connection.scalar(query, {"word": json.dumps({"word": word})})


    @router.get("/broken")
    async def broken() -> None:
        async with sql_engine.get().connect() as connection:
            await connection.execute(text("SELECT nothing"))


    @router.get("/too-large")
    def too_large() -> int:
        return int(1e999)


    app = VibetunerApp(routes=[router])
"""
PATHS = {"/nowhere": 404, "/private": 403, "/broken": 500, "/away": 503, "/counted?number=x": 422}


@asynccontextmanager
async def visiting(settings: Settings = IN_PRODUCTION) -> AsyncIterator[AsyncClient]:
    with using_settings(settings):
        transport = ASGITransport(create_app(), raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://testserver") as client:
            yield client


def write_templates(root: Path, **texts: str) -> None:
    folder = root / "src" / "shop" / "templates"
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, "utf-8")


@pytest.mark.parametrize(("path", "status"), PATHS.items())
async def test_a_browser_gets_a_page_and_a_program_gets_json(
    stand_in: Callable[..., Any], path: str, status: int
):
    """Each error is a page for a browser and JSON for a program, which caches keep apart."""
    stand_in(tune=TUNE)
    async with visiting() as client:
        page = await client.get(path, headers=BROWSER)
        plain = await client.get(path)
        asked = await client.get(path, headers={"Accept": "application/json, text/html"})

    assert (page.status_code, plain.status_code, asked.status_code) == (status, status, status)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    assert "<h1>" in page.text
    assert "secret" not in page.text
    assert plain.json() == asked.json()
    assert "detail" in plain.json()
    assert {page.headers["vary"], plain.headers["vary"]} == {"Accept"}
    for answer in (page, plain):
        assert "content-security-policy" in answer.headers
        assert answer.headers["x-shop"] == "yes"
        assert "x-frame-options" not in answer.headers


async def test_the_page_has_the_routes_own_sentence_and_its_headers(stand_in: Callable[..., Any]):
    """The error page has the route's own sentence, escaped, and its headers.

    An outage is described in development, and not in production.
    """
    stand_in(tune=TUNE)
    async with visiting() as client:
        private = await client.get("/private", headers=BROWSER)
        away = await client.get("/away", headers=BROWSER)
    async with visiting(NOTHING) as client:
        described = await client.get("/away", headers=BROWSER)

    assert "Ask &lt;Ann&gt; to let you in." in private.text
    assert private.headers["x-why"] == "private"
    assert "10.0.0.7" not in away.text
    assert away.headers["retry-after"] == "5"
    assert "Redis at redis://10.0.0.7 does not answer" in described.text


async def test_a_project_has_its_own_page(stand_in: Callable[..., Any]):
    """A project's templates/error.html replaces the error page, on the project's base."""
    root = stand_in(tune=TUNE)
    base = "<header>Shop</header>{% block content %}{% endblock %}"
    own = '{% extends "base.html" %}{% block content %}{{ status_code }}: {{ title }}{% endblock %}'
    write_templates(root, base=base, error=own)
    async with visiting() as client:
        page = await client.get("/nowhere", headers=BROWSER)

    assert page.text == "<header>Shop</header>404: There is nothing here"


async def test_a_broken_page_of_the_project_hides_no_error(
    stand_in: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    """If the project's error page fails, the runtime's is shown, and the log has the reason."""
    write_templates(stand_in(tune=TUNE), error="{{ person.name }}")
    async with visiting() as client:
        page = await client.get("/nowhere", headers=BROWSER)

    assert page.status_code == 404
    assert "<h1>There is nothing here</h1>" in page.text
    assert "the template error.html can't be rendered" in caplog.text


async def test_a_handler_of_the_project_comes_first(stand_in: Callable[..., Any]):
    """A project's exception handler takes precedence over the error page."""
    response = "from starlette.responses import PlainTextResponse"
    tune = TUNE.replace("from vibetuner import", f"{response}\n    from vibetuner import", 1)
    handlers = "{404: lambda _, error: PlainTextResponse('mine', 404)}"
    tune = tune.replace("App(routes", f"App(exception_handlers={handlers}, routes")
    stand_in(tune=tune)
    async with visiting() as client:
        assert (await client.get("/nowhere", headers=BROWSER)).text == "mine"
        assert "<h1>" in (await client.get("/private", headers=BROWSER)).text


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"
    return str(request.getfixturevalue("postgres"))


async def test_a_value_that_the_database_does_not_store_is_no_fault_of_the_app(
    stand_in: Callable[..., Any], database: str
):
    """A text or a number that can't be stored is a 422 without a traceback; a bug is a 500."""
    stand_in(tune=TUNE_WITH_SQL)
    settings = IN_PRODUCTION.model_copy(update={"database_url": database})
    async with visiting(settings) as client, open_sql(settings):
        stored = [await client.get("/echo/ann"), await client.get("/numbers/7")]
        texts = [await client.get(path) for path in ("/echo/a%00n", "/json/a%00n", "/short/longer")]
        numbers = [await client.get(f"/numbers/{number}") for number in (10**10, 10**20, -(10**40))]
        broken = [await client.get("/broken"), await client.get("/too-large")]

    assert [(answer.status_code, answer.json()) for answer in stored] == [(200, "ann"), (200, [7])]
    refused = {"detail": "The request holds a text or a number that can't be stored."}
    # It stores a NUL, a text of any length, and 64 bits in each column.
    is_sqlite = database.startswith("sqlite")
    assert (texts[0].status_code, texts[0].json()) == (
        (200, "a\0n") if is_sqlite else (422, refused)
    )
    assert is_sqlite or [answer.status_code for answer in texts[1:]] == [422, 422]
    assert [answer.status_code for answer in numbers] == [200 if is_sqlite else 422, 422, 422]
    assert [answer.json() for answer in numbers[1:]] == [refused, refused]
    assert [answer.status_code for answer in broken] == [500, 500]
