"""The pytest plugin, as the tests of a project use it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pymongo import AsyncMongoClient

from tests.processes import clean_environment, run_pytest, wait_until
from tests.projects import write, write_project
from vibetuner.embedded import Lease, status
from vibetuner.testing import held_open

MODELS = """
    from beanie import Document
    from sqlmodel import Field, SQLModel


    class Customer(Document):
        name: str


    class Parcel(Document):
        item: str


    class Order(SQLModel, table=True):
        id: int | None = Field(default=None, primary_key=True)
        item: str
"""

JOBS = """
    from shop.models import Order, Parcel
    from vibetuner.resources.sql import open_session
    from vibetuner.tasks.robust import robust_task
    from vibetuner.tasks.worker import get_worker

    worker = get_worker()


    @worker.task()
    async def pack(order_id: int) -> str:
        async with open_session() as session:
            order = await session.get(Order, order_id)
        await Parcel(item=order.item).insert()
        return f"packed {order_id}"


    @robust_task(max_retries=2)
    async def deliver(order_id: int) -> None:
        raise ConnectionError("no courier")


    @worker.cron("0 9 * * *")
    async def count_parcels() -> int:
        return await Parcel.count()
"""

ROUTES = """
    from fastapi import APIRouter

    from shop import jobs
    from shop.models import Customer, Order
    from vibetuner.resources.sql import open_session

    router = APIRouter()


    @router.post("/orders")
    async def order(item: str) -> dict[str, str]:
        await Customer(name="Ann").insert()
        async with open_session() as session:
            new = Order(item=item)
            session.add(new)
            await session.commit()
        task = await jobs.pack.enqueue(new.id)
        return {"task": task.id}
"""

TUNE = """
    from shop.jobs import count_parcels, deliver, pack
    from shop.models import Customer, Order, Parcel
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(
        tasks=[pack, deliver, count_parcels], routes=[router], models=[Customer, Parcel],
        sql_models=[Order],
    )
"""

# Tests as a user writes them, numbered, because some depend on what an earlier one has left.
TESTS = """
    from unittest.mock import patch

    import pytest
    from sqlmodel import select

    from vibetuner.config import data_dir, get_settings
    from vibetuner.resources.sql import open_session


    @pytest.mark.parametrize("time", [1, 2])
    async def test_1_route(vibetuner_client, mock_tasks, time):
        from shop.models import Customer, Order

        with patch("shop.jobs.pack", mock_tasks.pack):
            answer = await vibetuner_client.post("/orders", params={"item": "tea"})
        assert answer.status_code == 200
        assert len(answer.json()["task"]) == 32
        mock_tasks.pack.enqueue.assert_awaited_once_with(1)
        assert await Customer.count() == 1  # the first time's customer is gone
        async with open_session() as session:
            assert (await session.exec(select(Order.item))).all() == ["tea"]


    async def test_2_client_alone(vibetuner_client):
        assert str(vibetuner_client.base_url) == "http://testserver"
        assert (await vibetuner_client.get("/health")).json()["project"] == "corner-shop"


    async def test_3_without_mock_tasks_it_says_what_is_missing(vibetuner_client):
        answer = await vibetuner_client.post("/orders", params={"item": "tea"})
        assert answer.status_code == 503
        assert "Redis not configured" in answer.text


    async def test_4_a_task_is_called_directly(vibetuner_settings):
        from shop.jobs import deliver

        with pytest.raises(ConnectionError):
            await deliver(7)


    async def test_5_database(vibetuner_db):
        from shop.models import Customer

        assert await Customer.count() == 0
        assert vibetuner_db.name.startswith("test_")


    async def test_6_sql(vibetuner_sql):
        from shop.models import Order

        async with open_session() as session:
            assert (await session.exec(select(Order))).all() == []


    def test_7_settings(vibetuner_settings, tmp_path):
        assert get_settings().environment == vibetuner_settings.environment == "test"
        assert (vibetuner_settings.redis_url, vibetuner_settings.smtp_url) == (None, None)
        assert data_dir() == tmp_path / ".vibetuner"


    @pytest.mark.parametrize("time", [1, 2])
    async def test_7_mails(vibetuner_mails, time):
        from vibetuner.services.email import send_email

        assert vibetuner_mails() == []
        for subject in ("first", "second"):
            await send_email(to_email="ann@example.com", subject=subject, html_content="Hello")
        assert [mail["Subject"] for mail in vibetuner_mails()] == ["first", "second"]


    def test_8_mock_tasks(mock_tasks):
        assert not mock_tasks.anything.enqueue.called
        assert mock_tasks.anything is not mock_tasks.other


    async def test_9_worker(vibetuner_client, vibetuner_worker):
        from shop.jobs import pack
        from shop.models import Parcel

        await vibetuner_client.post("/orders", params={"item": "tea"})
        assert await Parcel.count() == 0
        await vibetuner_worker.run_until_idle()
        assert (await Parcel.find_one()).item == "tea"
        vibetuner_worker.assert_enqueued(pack, args=(1,), times=1)


    @pytest.mark.parametrize("time", [1, 2])
    async def test_10_worker_inline(vibetuner_worker, vibetuner_client, time):
        from shop.models import Parcel

        async with vibetuner_worker.inline():
            await vibetuner_client.post("/orders", params={"item": "tea"})
            assert await Parcel.count() == 1


    async def test_11_dead_letters_of_mongodb(vibetuner_worker, vibetuner_db):
        from shop.jobs import deliver

        await deliver.enqueue(1)
        await vibetuner_worker.advance(minutes=1)
        assert [letter.error for letter in vibetuner_worker.dead_letters] == ["no courier"]


    async def test_12_dead_letters_without_mongodb(vibetuner_worker):
        from shop.jobs import deliver

        await deliver.enqueue(2)
        await vibetuner_worker.advance(minutes=1)
        assert [letter.args for letter in vibetuner_worker.dead_letters] == [[2]]


    async def test_13_app(vibetuner_app, vibetuner_client):
        assert vibetuner_app.title == "Corner Shop"
        vibetuner_app.add_api_route("/hello", lambda: "hello")
        assert (await vibetuner_client.get("/hello")).json() == "hello"
"""

# Tests for either plugin; MARK is the mark that its users write above their tests.
MARKED = """
    import pytest

    pytestmark = MARK


    @pytest.fixture
    def anyio_backend():
        return "asyncio"


    async def test_client_and_worker(vibetuner_client, vibetuner_worker):
        from shop.models import Parcel

        await vibetuner_client.post("/orders", params={"item": "tea"})
        await vibetuner_worker.run_until_idle()
        assert await Parcel.count() == 1


    async def test_databases(vibetuner_db, vibetuner_sql, vibetuner_worker):
        await vibetuner_worker.advance(minutes=1)
"""

LEAKY = """
    async def test_leak(vibetuner_worker):
        from vibetuner.tasks.worker import get_worker

        await get_worker().redis.set("shop:prices", "1")
"""

HALF_MADE = """
    import gc

    from anyio import create_memory_object_stream


    def test_streams_as_coredis_leaves_them():
        create_memory_object_stream()
        gc.collect()
"""

IDLE = """
    import sys


    def test_nothing_is_loaded():
        loaded = {name.partition(".")[0] for name in sys.modules}
        assert not loaded & {"fastapi", "pymongo", "beanie", "sqlalchemy", "streaq", "coredis"}
        ours = {name for name in sys.modules if name.partition(".")[0] == "vibetuner"}
        assert ours == {"vibetuner", "vibetuner.app", "vibetuner.pytest_plugin"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a project with a `.env` that names servers which no test must reach."""
    files = {"models.py": MODELS, "jobs.py": JOBS, "routes.py": ROUTES}
    env = "REDIS_URL=redis://127.0.0.1:1\nMONGODB_URL=embedded\nDATABASE_URL=sqlite:////dev/null\n"
    root = write_project(tmp_path / "project", files, tune=TUNE, env=env)
    write(root / "tests" / "test_shop.py", TESTS)
    write(root / "tests" / "test_idle.py", IDLE)
    write(root / "anyio.ini", "[pytest]\nfilterwarnings = error\npythonpath = src\n")
    with (root / "pyproject.toml").open("a") as file:
        file.write(
            '[tool.pytest.ini_options]\nasyncio_mode = "auto"\nfilterwarnings = ["error"]\n'
            'pythonpath = ["src"]\nasyncio_default_fixture_loop_scope = "function"\n'
        )
    return root


def passes(project: Path, *arguments: str, **environment: str) -> str:
    """Return the output of ``pytest`` in ``project``, where all tests must pass."""
    return printed_by(run_pytest(*arguments, folder=project, **environment))


def printed_by(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_projects_tests_pass_with_nothing_running(project: Path, tmp_path: Path):
    """A project's tests pass without running servers, and each test has data of its own.

    The plugin starts the servers, and they end with the tests.
    """
    base = tmp_path / "base"

    printed = passes(project, "tests/test_shop.py", f"--basetemp={base}")

    assert re.search(r"^17 passed in ", printed, re.MULTILINE), printed
    assert not (project / ".vibetuner").exists()
    services = base / "services0"
    assert (services / ".vibetuner" / "services").is_dir()
    wait_until(lambda: status(services).keeper is None, what=lambda: "the servers' end")


async def test_a_server_that_the_environment_names_is_used_and_left_clean(
    project: Path, tmp_path: Path, servers: Lease
):
    """A MongoDB that the environment names, as in CI, is used, and its databases stay unchanged."""
    url = servers.urls["mongodb"]
    async with AsyncMongoClient(url) as client:
        await client["shop"]["customers"].insert_one({"name": "Bob"})
        before = set(await client.list_database_names())

        passes(
            project, "tests/test_shop.py", "-k", "test_1_ or test_5_",
            f"--basetemp={tmp_path / 'base'}", MONGODB_URL=url,
        )  # fmt: skip

        assert set(await client.list_database_names()) == before
        assert await client["shop"]["customers"].count_documents({}) == 1
        await client.drop_database("shop")
    assert not (tmp_path / "base" / "services0" / ".vibetuner").exists()


def test_tests_may_run_in_parallel(project: Path, tmp_path: Path):
    """Under pytest-xdist, each process has servers of its own, and the tests pass."""
    printed = passes(project, "tests/test_shop.py", "-n", "2", "-k", "worker or dead or route")

    assert re.search(r"^7 passed in ", printed, re.MULTILINE), printed


@pytest.mark.parametrize(
    ("mark", "options"),
    [
        ("pytest.mark.anyio", ["-p", "no:asyncio", "-c", "anyio.ini"]),
        ("pytest.mark.anyio", ["-o", "asyncio_mode=strict"]),
        ("pytest.mark.asyncio", ["-o", "asyncio_mode=strict"]),
    ],
    ids=["anyio alone", "anyio beside pytest-asyncio", "pytest-asyncio, strict"],
)
def test_either_plugin_may_run_the_tests(project: Path, mark: str, options: list[str]):
    """Fixtures and tests share the event loop, under anyio's plugin and under pytest-asyncio."""
    write(project / "tests" / "test_marked.py", MARKED.replace("MARK", mark))

    printed = passes(project, "tests/test_marked.py", *options)

    assert re.search(r"^2 passed in ", printed, re.MULTILINE), printed


def test_a_test_that_leaves_a_key_for_ever_fails(project: Path):
    """A test that leaves a key without a time to live fails at its teardown, with the key."""
    write(project / "tests" / "test_leak.py", LEAKY)

    done = run_pytest("tests/test_leak.py", folder=project)

    assert done.returncode == 1
    assert "AssertionError: Left in Redis without a time to live: shop:prices. Set" in done.stdout


async def test_a_lifespan_that_does_not_open_fails_where_it_is_asked_for():
    """`held_open` raises the error of a lifespan that doesn't open."""

    @asynccontextmanager
    async def broken() -> AsyncIterator[None]:
        raise KeyError("no server")
        yield

    with pytest.raises(KeyError, match="no server"):
        async with held_open(broken()):
            pytest.fail("it opened")


def test_a_run_that_asks_for_no_fixture_loads_nothing(project: Path):
    """A run without the plugin's fixtures loads no library, as the plugin is active everywhere."""
    # The process is started, as a fork would have loaded the libraries.
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_idle.py")
    done = subprocess.run(
        command, cwd=project, env=clean_environment(), capture_output=True, text=True, check=False
    )
    fixtures = passes(project, "--fixtures", "tests/test_idle.py")

    assert "1 passed" in printed_by(done)

    for name in ("app", "client", "db", "settings", "sql", "worker"):
        assert re.search(rf"^vibetuner_{name}\b.*\n +[A-Z]", fixtures, re.MULTILINE), name


def test_a_connection_that_is_cut_off_half_made_fails_no_test(project: Path):
    """A connection of coredis that was cut off half made fails no test by its warnings."""
    write(project / "tests" / "test_half_made.py", HALF_MADE)

    assert "1 passed" in passes(project, "tests/test_half_made.py")
