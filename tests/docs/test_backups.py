"""The commands on the page about backups restore what they dump, on servers of the test."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
from vibetuner.redis.blocking import ask as ask_redis
from vibetuner.redis.url import parse_url
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import held_open

__all__ = ["fresh", "settings", "stand_in"]

PAGE = ROOT / "docs" / "how-to" / "backups.md"
PASSWORD = "a-pass-word"
NO_MONGO = r"^(?!in_container mongo)"
LINES = [block.text for block in read_blocks(PAGE) if block.language == "bash"]


# Stands in for the engine: the commands run here, and not in a container.
DOCKER = """#!/bin/sh
[ "$1 $2 $3" = "compose -f compose.prod.yml" ] || exit 9
shift 3
case "$1 $2" in
    "exec -T") shift 3 ;;
    "run --rm") [ "$3 $4 $5 $6 $7" = "--no-deps -T --entrypoint tar worker" ] || exit 9
        shift 7; set -- tar "$@" ;;
    "stop web") exit 0 ;;
esac
exec "$@"
"""


def type_lines(
    folder: Path, word: str, *, only: str = "", port: int = 6379, **variables: str
) -> str:
    """Run the first block that contains ``word``, and return its output.

    With ``only``, run the lines of it that match.
    """
    text = next(text for text in LINES if word in text)
    if only:
        text = "\n".join(line for line in text.splitlines() if re.search(only, line))
    text = text.replace("6379", str(port))
    text = text.replace("/run/secrets", str(folder))
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
        "--requirepass",
        PASSWORD,
    )
    server = subprocess.Popen(
        ["redis-server", "--dir", str(folder), *options], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: listens(port), what=lambda: "redis-server")
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def listens(port: int) -> bool:
    """Return whether the server answers to its password."""
    command = ["redis-cli", "-p", str(port), "-a", PASSWORD, "ping"]
    return subprocess.run(command, capture_output=True, check=False).stdout == b"PONG\n"


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
    own = settings.model_copy(update={"redis_url": f"redis://:{PASSWORD}@127.0.0.1:{port}"})

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
            type_lines(tmp_path, "--rdb", only="mkdir|--rdb", REDIS_URL=url)
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
        type_lines(tmp_path, "pg_dump", only="mkdir|pg_dump", DATABASE_URL=url)
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


def test_servers_in_containers_are_dumped_through_their_output(tmp_path: Path):
    """Tables and files are restored from what the commands for containers have dumped.

    So are keys of Redis, by the commands for a server without containers.
    """
    for program in ("pg_dump", "redis-server", "redis-cli"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    docker, data, port = tmp_path / "bin" / "docker", tmp_path / "redis", free_port()
    for folder in (docker.parent, data, tmp_path / ".vibetuner"):
        folder.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    # In the container, the commands use its socket, and the port of the server.
    (docker.parent / "valkey-cli").write_text(f'#!/bin/sh\nexec redis-cli -p {port} "$@"\n')
    (docker.parent / "valkey-cli").chmod(0o755)
    conf, upload = tmp_path / "valkey_conf", tmp_path / ".vibetuner" / "upload.txt"
    conf.write_text(f"requirepass {PASSWORD}\n")
    upload.write_text("a file")
    with running_postgres() as (url, _), redis(data, port) as address:
        ask_redis(parse_url(address), ["SET", "kept", "yes"])
        parts = urlsplit(url)
        variables = {
            "PATH": f"{docker.parent}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": str(parts.hostname),
            "PGPORT": str(parts.port),
        }

        def ask(sql: str) -> str:
            command = ["psql", "-qtA", own.replace("+asyncpg", ""), "-c", sql]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        subprocess.run(
            ["createdb", "-U", "app", "app"], env={**os.environ, **variables}, check=True
        )
        own = url.replace("/postgres", "/app")
        ask("create table orders (name text); insert into orders values ('tea')")
        type_lines(tmp_path, "in_container postgres pg_dump", only=NO_MONGO, **variables)
        ask("delete from orders")
        upload.unlink()
        type_lines(tmp_path, "in_container postgres pg_restore", only=NO_MONGO, **variables)
        assert ask("select name from orders").split() == ["tea"]
    assert upload.read_text() == "a file"
    shutil.rmtree(data / "appendonlydir")
    try:
        type_lines(tmp_path, "aof_rewrite_in_progress", port=port, REDIS_DATA=str(data))
    except BaseException:
        shut_down(port)
        raise
    with redis(data, port) as address:
        assert ask_redis(parse_url(address), ["GET", "kept"]) == ["yes"]


def test_the_embedded_servers_come_back_with_their_folder(tmp_path: Path):
    """A copy of the folder of the embedded MongoDB restores its documents."""
    root = write_shop(tmp_path / "shop")
    for text in ("kept", "kept as well"):  # the second copy replaces the first
        with notes_of(root) as notes:
            notes.insert_one({"text": text})
        type_lines(root, "cp -a .vibetuner")
    with notes_of(root) as notes:
        notes.delete_many({})
    type_lines(root, "cp -a backup/development")
    with notes_of(root) as notes:
        assert [note["text"] for note in notes.find()] == ["kept", "kept as well"]


@contextmanager
def notes_of(root: Path) -> Iterator[Collection[dict[str, Any]]]:
    """Yield a collection of the embedded MongoDB, which is started and then stopped."""
    with join(root, ["mongodb"], command="pytest") as lease:
        with MongoClient[dict[str, Any]](lease.urls["mongodb"]) as client:
            yield client["app"]["notes"]
