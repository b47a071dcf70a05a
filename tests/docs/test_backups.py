"""The commands on the page about backups restore what they dump, on servers of the test."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from tests.docs.blocks import ROOT, read_blocks
from tests.postgres import running_postgres
from tests.processes import clean_environment, free_port
from tests.projects import write_shop
from tests.runtime.conftest import fresh, settings, stand_in
from tests.waiting import wait_until
from vibetuner.config import Settings, using_settings
from vibetuner.embedded import join
from vibetuner.redis.blocking import responds
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open

__all__ = ["fresh", "settings", "stand_in"]

PAGE = ROOT / "docs" / "how-to" / "backups.md"
LINES = [block.text for block in read_blocks(PAGE) if block.language == "bash"]


def type_lines(folder: Path, word: str, *, port: int = 6379, **variables: str) -> str:
    """Run those lines of the block that contain ``word``, and return their output."""
    [text] = [text for text in LINES if word in text]
    if word in {"pg_dump", "--rdb"}:  # they stand in one block, for two servers
        text = "\n".join(line for line in text.splitlines() if re.search(rf"mkdir|{word}", line))
    text = text.replace("6379", str(port))
    text = text.replace("uv run vibetuner", f"{sys.executable} -m vibetuner")
    typed = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert typed.returncode == 0, typed.stdout + typed.stderr
    return typed.stdout


@contextmanager
def redis(folder: Path, port: int) -> Iterator[str]:
    """Run a redis-server that keeps its data, as in production."""
    options = (
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--save",
        "",
        "--repl-diskless-sync-delay",
        "0",
    )
    server = subprocess.Popen(
        ["redis-server", "--dir", str(folder), *options], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: responds(port), what=lambda: "redis-server")
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def shut_down(port: int) -> None:
    """Shut down the server that the page's lines have started, if they failed."""
    command = ["redis-cli", "-p", str(port), "shutdown", "nosave"]
    subprocess.run(command, capture_output=True, check=False)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
async def test_tasks_come_back_with_the_dump_of_redis(tmp_path: Path, stand_in, settings: Settings):
    """Tasks that wait in a dump of Redis are run by a worker after it is restored."""
    stand_in()
    data, port = tmp_path / "redis", free_port()
    data.mkdir()
    own = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})

    def make() -> TaskWorker:
        worker = TaskWorker(own)
        worker.burst, worker.handle_signals = True, False

        @worker.task(name="add")
        async def add(a: int, b: int) -> int:
            return a + b

        return worker

    with using_settings(own):
        with redis(data, port) as url:
            async with held_open(make()) as worker:
                task = await worker.registry["add"].enqueue(1, 2)
            type_lines(tmp_path, "--rdb", REDIS_URL=url)
            async with held_open(make()) as worker:
                await worker.redis.flushall()
        try:
            type_lines(tmp_path, "aof_rewrite_in_progress", port=port, REDIS_DATA=str(data))
        except BaseException:
            shut_down(port)
            raise
        with redis(data, port):
            worker = make()
            await worker.run_async()
            async with held_open(worker):
                assert (await worker.result_by_id(task.id, timeout=30)).result == 3


def test_tables_come_back_with_the_dump_of_postgresql(tmp_path: Path):
    """Rows that were deleted since the dump of PostgreSQL are there again after it is restored."""
    if shutil.which("pg_dump") is None:
        pytest.skip("PostgreSQL is not installed")
    with running_postgres() as (url, _):

        def ask(sql: str) -> str:
            command = ["psql", "-qtA", url.replace("+asyncpg", ""), "-c", sql]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        ask("create table orders (id serial primary key, name text)")
        ask("insert into orders (name) values ('tea'), ('cups')")
        type_lines(tmp_path, "pg_dump", DATABASE_URL=url)
        ask("delete from orders where name = 'tea'; create table later (id int)")
        type_lines(tmp_path, "pg_restore", DATABASE_URL=url)

        assert ask("select name from orders order by id").split() == ["tea", "cups"]


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_tables_come_back_with_the_copy_of_sqlite(tmp_path: Path):
    """A copy of a SQLite file in WAL mode restores what was deleted since the copy."""
    file = tmp_path / "app.db"
    url = f"sqlite+aiosqlite:///{file}"
    (tmp_path / "backup").mkdir()
    open_one = sqlite3.connect(file)
    open_one.execute("pragma journal_mode=wal")
    open_one.execute("create table orders (name text)")
    open_one.execute("insert into orders values ('tea')")
    open_one.commit()
    type_lines(tmp_path, ".backup", DATABASE_URL=url)
    open_one.execute("delete from orders")
    open_one.commit()
    open_one.close()
    type_lines(tmp_path, "$file-wal", DATABASE_URL=url)

    restored = sqlite3.connect(file)
    assert restored.execute("select name from orders").fetchall() == [("tea",)]
    restored.close()


def test_the_embedded_servers_come_back_with_their_folder(tmp_path: Path):
    """A copy of the folder of the embedded MongoDB restores its documents."""
    root = write_shop(tmp_path / "shop")
    (root / "backup").mkdir()
    with notes_of(root) as notes:
        notes.insert_one({"text": "kept"})
    type_lines(root, "cp -a")
    shutil.rmtree(root / ".vibetuner")
    shutil.copytree(root / "backup" / "development", root / ".vibetuner")
    with notes_of(root) as notes:
        assert [note["text"] for note in notes.find()] == ["kept"]


@contextmanager
def notes_of(root: Path) -> Iterator[Collection[dict[str, Any]]]:
    """Yield a collection of the embedded MongoDB, which is started and then stopped."""
    with join(root, ["mongodb"], command="pytest") as lease:
        with MongoClient[dict[str, Any]](lease.urls["mongodb"]) as client:
            yield client["app"]["notes"]
