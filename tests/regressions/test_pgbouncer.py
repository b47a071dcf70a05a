"""Behind PgBouncer in transaction mode, sessions share connections of the server.

A prepared statement is then looked for where it was not prepared, or where another process has
prepared one of the same name.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from tests.postgres import USER
from tests.processes import free_port
from tests.waiting import eventually
from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.resources.sql import check, open_session, open_sql

UNCACHED = "?prepared_statement_cache_size=0"
CONFIGURATION = """\
[databases]
postgres = host=127.0.0.1 port={server} user=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""
NAMES = text("SELECT name FROM pg_prepared_statements WHERE statement LIKE '%once%'")
NAMED = text("SELECT 'once'")


@pytest.fixture
def pooled(postgres: str) -> Iterator[str]:
    """Yield the URL of an empty database behind PgBouncer, which has two connections for all."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    url, port = make_url(postgres), free_port()
    # Its user may not enter pytest's folder.
    with tempfile.NamedTemporaryFile("w", suffix=".ini", encoding="utf-8") as file:
        file.write(CONFIGURATION.format(server=url.port, port=port))
        file.flush()
        Path(file.name).chmod(0o644)
        with subprocess.Popen(
            [program, file.name], user=USER, cwd="/", stderr=subprocess.DEVNULL
        ) as pooler:
            try:
                yield url.set(port=port).render_as_string(hide_password=False)
            finally:
                pooler.terminate()


async def test_sessions_share_connections_without_named_statements(pooled: str):
    """With the cache turned off, each session gets its own answers, in two processes' engines."""
    settings = Settings(database_url=pooled + UNCACHED)

    async def answers() -> bool:
        try:
            await check(settings)
        except ServiceUnavailable:  # it has not begun to listen
            return False
        return True

    async def ask(who: int) -> None:
        for number in range(20):
            query = text(f"SELECT {number % 4}, CAST(:who AS INTEGER)")
            async with open_session() as session:
                found = (await session.exec(query, params={"who": who})).one()
                await session.commit()
            assert tuple(found) == (number % 4, who)

    await eventually(answers, what=lambda: "PgBouncer")
    async with open_sql(settings):
        await asyncio.gather(*(ask(who) for who in range(8)))


@pytest.mark.parametrize("options", ["", UNCACHED])
async def test_names_of_statements_are_no_other_processes(postgres: str, options: str):
    """A statement that is kept has a name of its engine's own; without the cache, it has none."""
    names = set[str]()
    for _ in range(2):
        async with open_sql(Settings(database_url=postgres + options)):
            async with open_session() as session:
                await session.exec(NAMED)
                found = {str(one[0]) for one in await session.exec(NAMES)}
                names |= found
                assert not any(name.startswith("__asyncpg") for name in found)
    assert len(names) == (0 if options else 4)


@pytest.mark.parametrize("state", ["26000", "42P05"])
async def test_a_pooler_without_the_option_is_named(postgres: str, state: str):
    """The error for a statement that a pooler has lost, or has of another process, has the cure."""
    verb = "does not exist" if state == "26000" else "already exists"
    message = f'prepared statement "stmt_1" {verb}'
    async with open_sql(Settings(database_url=postgres)):
        with pytest.raises(ServiceUnavailable, match=message) as raised:
            async with open_session() as session:
                await session.exec(
                    text(f"DO $$ BEGIN RAISE '{message}' USING ERRCODE = '{state}'; END $$")
                )
    assert str(raised.value).endswith(f"end DATABASE_URL with {UNCACHED}")
