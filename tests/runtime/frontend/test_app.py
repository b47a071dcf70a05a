"""The web app of a project."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text

from tests.processes import clean_environment
from tests.projects import SHOP, SHOP_TUNE, write_project
from tests.valkey import Valkey
from vibetuner.config import Settings, using_settings
from vibetuner.context import current_context
from vibetuner.errors import ProjectError, ServiceUnavailable
from vibetuner.frontend.app import create_app
from vibetuner.frontend.lifespan import base_lifespan
from vibetuner.redis import redis_client
from vibetuner.resources.sql import open_sql

NOTHING = Settings(environment="test", redis_url=None, mongodb_url=None, database_url=None)

PARCELS = """
    from sqlmodel import Field, SQLModel

    from vibetuner import VibetunerApp


    class Parcel(SQLModel, table=True):
        id: int = Field(primary_key=True)
        weight: int


    app = VibetunerApp(sql_models=[Parcel])
"""
LIFESPAN = """
    from contextlib import asynccontextmanager

    from fastapi import APIRouter

    from vibetuner import VibetunerApp
    from vibetuner.frontend.lifespan import base_lifespan

    steps = []
    router = APIRouter()


    @router.get("/steps")
    async def tell() -> list[str]:
        return steps


    @asynccontextmanager
    async def lifespan():
        async with base_lifespan() as context:
            steps.append(f"opened {context.project_slug}")
            yield context
        steps.append("closed")


    app = VibetunerApp(frontend_lifespan=lifespan, routes=[router])
"""


@asynccontextmanager
async def visiting(app: FastAPI, *, raising: bool = True) -> AsyncIterator[AsyncClient]:
    """Run the app's lifespan; yield a client of the app."""
    transport = ASGITransport(app, raise_app_exceptions=raising)
    async with app.router.lifespan_context(app):
        async with AsyncClient(transport=transport, base_url="http://testserver") as client:
            yield client


async def test_the_projects_routes_are_served_and_health_beside_them(stand_in):
    """The project's routes are served, and /health answers without an outside system."""
    stand_in(SHOP, tune=SHOP_TUNE)
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            assert set((await client.get("/")).json()) == {"pid"}
            health = await client.get("/health")

    assert health.json() == {"status": "ok", "project": "corner-shop", "version": "1.2.3"}


async def test_without_redis_pages_work_and_enqueueing_names_what_is_missing(stand_in):
    """Without Redis, an enqueue in a route answers 503 with the guide's error.

    In a test, it names the fixture that the test lacks.
    """
    stand_in(SHOP, tune=SHOP_TUNE)
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            in_test = await client.post("/tasks/add", json=[1, 2])
    with using_settings(NOTHING.model_copy(update={"environment": "development"})):
        async with visiting(create_app()) as client:
            answer = await client.post("/tasks/add", json=[1, 2])

    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("Background tasks: Redis not configured. Add to .env")
    told = f"{answer.json()['detail']} (in a test, request the fixture vibetuner_worker)"
    assert in_test.json()["detail"] == told


async def test_redis_that_is_down_stops_the_start(stand_in):
    """An unreachable Redis stops the start, so that no visitor finds out first."""
    stand_in()
    with using_settings(NOTHING.model_copy(update={"redis_url": "redis://127.0.0.1:1"})):
        with pytest.raises(ServiceUnavailable, match="Redis at redis://127.0.0.1:1 can't be used"):
            async with visiting(create_app()):
                pytest.fail("it started")


async def test_the_queue_is_open_while_the_app_lives(stand_in, settings: Settings):
    """A task can be enqueued while the app lives, and all is closed afterwards."""
    stand_in(SHOP, tune=SHOP_TUNE)
    async with visiting(create_app()) as client:
        answer = await client.post("/tasks/add", json=[1, 2])
        assert len(answer.json()["id"]) == 32
        assert redis_client.peek() is not None

    assert redis_client.peek() is None
    assert current_context.peek() is None


async def test_an_exception_inside_the_lifespan_comes_out_as_it_is(stand_in, settings: Settings):
    """An exception inside the lifespan is raised as it is, and not in a group."""
    stand_in()

    with pytest.raises(KeyError, match="mine"):
        async with base_lifespan():
            raise KeyError("mine")


async def test_the_project_may_bring_its_own_lifespan(stand_in):
    """The project's own lifespan is entered, and opens the runtime's inside it."""
    stand_in(tune=LIFESPAN)
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            assert (await client.get("/steps")).json() == ["opened corner-shop"]

        from shop.tune import steps

        assert steps == ["opened corner-shop", "closed"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("htmx.min.js", "htmx"),
        ("htmx-sse.min.js", "EventSource"),
        ("htmx-sse-resume.js", "last-event-id"),
        ("submit-once.js", "preventDefault"),
    ],
)
async def test_htmx_is_served_by_the_app_itself(stand_in, name: str, words: str):
    """The app itself serves htmx, so that a page works without a network."""
    stand_in()
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            answer = await client.get(f"/_vibetuner/{name}")

    assert answer.headers["content-type"].startswith("text/javascript")
    assert words in answer.text


async def test_static_files_are_the_projects_and_nothing_above_them(stand_in):
    """Static files are served from the project's folder, and no path leads out of it."""
    stand_in({"static/app.css": "body { margin: 0 }\n"})
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            assert (await client.get("/static/app.css")).text == "body { margin: 0 }\n"
            for path in ("../tune.py", "%2e%2e/tune.py", "..%2ftune.py", "", "nothing.css"):
                assert (await client.get(f"/static/{path}")).status_code == 404


async def test_a_static_file_is_asked_for_again_and_sent_if_it_has_changed(stand_in):
    """A browser asks again for each static file; it gets a 304, or the file if it has changed."""
    root = stand_in({"static/app.css": "body { margin: 0 }\n"})
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            first = await client.get("/static/app.css")
            known = {"If-None-Match": first.headers["etag"]}
            again = await client.get("/static/app.css", headers=known)
            (root / "src/shop/static/app.css").write_text("body { margin: 1px }\n")
            changed = await client.get("/static/app.css", headers=known)

    assert [first.status_code, again.status_code, changed.status_code] == [200, 304, 200]
    assert {one.headers["cache-control"] for one in (first, again, changed)} == {"no-cache"}


async def test_without_a_static_folder_there_is_no_static_path(stand_in):
    """Without a static folder, each path below /static is a 404."""
    stand_in()
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            assert (await client.get("/static/app.css")).status_code == 404


async def test_the_app_describes_itself_as_pyproject_does(stand_in):
    """The schema has the values of pyproject.toml, and no page loads it from a CDN."""
    stand_in()
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            about = (await client.get("/openapi.json")).json()
            assert (await client.get("/docs")).status_code == 404
            assert (await client.get("/redoc")).status_code == 404

    assert about["info"] == {"title": "Corner Shop", "description": "Sells", "version": "1.2.3"}
    assert "/health" not in about["paths"]


@pytest.mark.parametrize("debug", [False, True])
async def test_only_debug_shows_a_visitor_where_it_broke(stand_in, debug: bool):
    """Only DEBUG shows a visitor the cause of an error."""
    routes = """
        from fastapi import APIRouter
        from vibetuner import VibetunerApp

        router = APIRouter()


        @router.get("/")
        async def broken() -> None:
            raise ValueError("hunter2")


        app = VibetunerApp(routes=[router])
    """
    stand_in(tune=routes)
    with using_settings(NOTHING.model_copy(update={"debug": debug})):
        async with visiting(create_app(), raising=False) as client:
            answer = await client.get("/")

    assert answer.status_code == 500
    assert ("hunter2" in answer.text) == debug


def test_outside_a_project_there_is_no_app(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The app can't be made outside a project, and the error names how to make one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match="in no vibetuner project.*copier copy"):
        create_app()


def test_one_process_can_make_more_than_one_app(stand_in):
    """Each call of create_app returns an app of its own, as a process that runs tests needs."""
    stand_in(SHOP, tune=SHOP_TUNE)
    apps: list[Any] = [create_app(), create_app()]

    assert apps[0] is not apps[1]


async def test_readiness_names_what_does_not_answer(stand_in, settings: Settings):
    """/health/ready answers 503 with the reasons while a system is away, and else 200.

    In production, the reason names no address.
    """
    stand_in()
    app = create_app()
    transport = ASGITransport(app)
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        well = await client.get("/health/ready")
        away = {"redis_url": "redis://:hunter2@127.0.0.1:1"}
        with using_settings(settings.model_copy(update=away)):
            ill = await client.get("/health/ready")
        with using_settings(settings.model_copy(update=away | {"environment": "production"})):
            discreet = await client.get("/health/ready")
            alive = await client.get("/health")

    assert (well.status_code, well.json()["status"]) == (200, "ok")
    assert set(well.json()["resources"]) == {"Redis", "MongoDB", "SQL database"}
    assert well.headers["cache-control"] == "no-store"
    assert (ill.status_code, ill.json()["status"]) == (503, "unavailable")
    assert (
        "Redis at redis://***@127.0.0.1:1 can't be used"
        in ill.json()["resources"]["Redis"]["reason"]
    )
    assert ill.json()["resources"]["MongoDB"]["ok"]
    assert "127.0.0.1" not in discreet.text
    assert alive.status_code == 200


@pytest.mark.parametrize(
    ("files", "status", "kind"),
    [
        ([], 204, None),
        (["icon.svg"], 200, "image/svg+xml"),
        (["icon.svg", "favicon.ico"], 200, "image/vnd.microsoft.icon"),
    ],
)
async def test_browsers_find_an_icon_where_they_look_for_it(
    stand_in: Any, files: list[str], status: int, kind: str | None
):
    """/favicon.ico answers with the project's icon, or with 204 if there is none.

    A 404 for each page without an icon would fill the log.
    """
    root = stand_in(SHOP, tune=SHOP_TUNE)
    for name in files:
        path = root / "src/shop/static" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("<svg/>")
    with using_settings(NOTHING):
        async with visiting(create_app()) as client:
            answer = await client.get("/favicon.ico")
    assert answer.status_code == status
    found = answer.headers.get("content-type", "").replace("x-icon", "vnd.microsoft.icon")
    assert (found or None) == kind


async def test_readiness_compares_the_tables_with_the_models(stand_in, settings: Settings):
    """/health/ready answers 503 while a model's column is missing, and allows an extra one."""
    stand_in(tune=PARCELS)
    transport = ASGITransport(create_app())
    answers = []
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        for statement in (
            "CREATE TABLE parcel (id INTEGER PRIMARY KEY)",
            "ALTER TABLE parcel ADD COLUMN weight INTEGER",
            "ALTER TABLE parcel ADD COLUMN colour TEXT DEFAULT 'red'",
        ):
            async with open_sql(settings) as engine, engine.begin() as connection:
                await connection.execute(text(statement))
            answers.append(await client.get("/health/ready"))

    assert [answer.status_code for answer in answers] == [503, 200, 200]
    assert answers[0].json()["resources"]["SQL tables"]["reason"] == (
        "SQL tables differ from the models: column parcel.weight is missing. "
        "Run:  vibetuner db revision 'what changed'"
    )
    assert answers[0].json()["resources"]["SQL database"]["ok"]


@pytest.mark.slow
async def test_a_silent_redis_is_a_503_within_seconds(stand_in, tmp_path: Path):
    """A request during a frozen Redis gets 503 with Retry-After within seconds.

    In production, the answer names no address.
    """
    stand_in(SHOP, tune=SHOP_TUNE)
    with Valkey(tmp_path) as valkey:
        own = {"redis_url": valkey.url, "environment": "production", "secret_key": "k" * 40}
        with using_settings(Settings(redis_key_prefix="shop", **own)):
            async with visiting(create_app()) as client:
                assert (await client.post("/tasks/add", json=[1, 2])).status_code == 200
                with valkey.frozen():
                    began = time.monotonic()
                    answer = await client.post("/tasks/add", json=[1, 2])
                    took = time.monotonic() - began
                    unready = await client.get("/health/ready")

    assert (answer.status_code, unready.status_code) == (503, 503)
    assert answer.headers["retry-after"] == "5"
    assert 4 < took < 9.5  # five, and ten without the limit
    assert "127.0.0.1" not in answer.text


async def test_readiness_uses_the_connections_that_are_open(stand_in, settings: Settings):
    """/health/ready uses the connections that are open, and makes no new ones."""
    stand_in()
    async with visiting(create_app()) as client:
        redis = redis_client.get()
        before = int((await redis.info("stats"))["total_connections_received"])
        for _ in range(10):
            assert (await client.get("/health/ready")).status_code == 200
        after = int((await redis.info("stats"))["total_connections_received"])

    assert after - before < 10  # other tests share the server


def test_a_full_disk_makes_the_process_unready(tmp_path: Path):
    """/health/ready answers 503 in a process that can write nothing."""
    root = write_project(tmp_path / "project")
    script = """
        import asyncio, resource
        from httpx2 import ASGITransport, AsyncClient
        from vibetuner.frontend.app import create_app

        async def main():
            transport = ASGITransport(create_app())
            async with AsyncClient(transport=transport, base_url="http://localhost") as client:
                print((await client.get("/health/ready")).status_code)
                allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, allowed[1]))
                answer = await client.get("/health/ready")
                resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
                print(answer.status_code, answer.text)

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)],
        cwd=root,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    first, full = done.stdout.splitlines()
    status, _, body = full.partition(" ")
    assert (first, status) == ("200", "503")
    assert "takes no data" in json.loads(body)["resources"]["disk"]["reason"]


async def test_a_data_folder_that_can_not_be_made_is_no_reason_to_be_unready(stand_in):
    """/health/ready answers 200 where .vibetuner can't be made, as on a read-only disk."""
    root = stand_in()
    (root / ".vibetuner").write_text("in its place")
    transport = ASGITransport(create_app())
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        assert (await client.get("/health/ready")).status_code == 200


DECLARED = """
    from fastapi import APIRouter, Request
    from fastapi.responses import HTMLResponse, PlainTextResponse
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware

    from vibetuner import VibetunerApp
    from vibetuner.frontend.templates import render

    router = APIRouter()


    @router.get("/page")
    async def page(request: Request) -> HTMLResponse:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return render(request, "page.html", {"visits": request.session["visits"]})


    @router.get("/sorry")
    async def sorry() -> None:
        raise LookupError("the last one")


    async def apologise(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse(f"sold out: {error}", 410)


    async def admin(scope, receive, send) -> None:
        await PlainTextResponse("admin" + scope["path"].removeprefix(scope["root_path"]))(
            scope, receive, send
        )


    app = VibetunerApp(
        routes=[router],
        middleware=[Middleware(SessionMiddleware, secret_key="of a test")],
        exception_handlers={LookupError: apologise},
        mounts={"/admin": admin},
        template_filters={"shout": str.upper},
        template_globals={"shop": "corner shop"},
        headers={"X-Frame-Options": None, "X-Shop": "corner"},
        openapi=True,
    )
"""


async def test_a_project_adds_its_own_without_a_fork(stand_in):
    """tune.py adds middleware, error handlers, mounts, template filters and globals, headers."""
    page = "{{ shop | shout }} {{ visits }}"
    stand_in({"templates/page.html": page}, tune=DECLARED)
    with using_settings(NOTHING.model_copy(update={"environment": "production"})):
        async with visiting(create_app()) as client:
            first, second = await client.get("/page"), await client.get("/page")
            gone = await client.get("/sorry")
            admin = await client.get("/admin/users")
            schema = await client.get("/openapi.json")

    assert (first.text, second.text) == ("CORNER SHOP 1", "CORNER SHOP 2")
    assert (gone.status_code, gone.text) == (410, "sold out: the last one")
    assert admin.text == "admin/users"
    assert schema.status_code == 200
    assert first.headers["x-shop"] == "corner"
    assert "x-frame-options" not in first.headers
    assert "default-src 'self'" in first.headers["content-security-policy"]


async def test_production_answers_no_schema(stand_in):
    """In production, /openapi.json is a 404, unless tune.py declares openapi=True."""
    stand_in()
    with using_settings(NOTHING.model_copy(update={"environment": "production"})):
        async with visiting(create_app()) as client:
            assert (await client.get("/openapi.json")).status_code == 404
