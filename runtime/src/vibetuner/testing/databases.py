"""Databases for one test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from vibetuner.config import Settings
from vibetuner.loader import load_project
from vibetuner.resources.mongo import Database, open_mongo
from vibetuner.resources.sql import create_schema, open_sql
from vibetuner.testing.fixtures import SettingsOverride, name_database


@asynccontextmanager
async def throwaway_mongo(settings: SettingsOverride, server: str) -> AsyncIterator[Database]:
    """Create a database on ``server``, named by MONGODB_URL; drop it afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    named = settings(mongodb_url=name_database(server, name))
    async with open_mongo(named, load_project()) as database:
        try:
            yield database
        finally:
            await database.client.drop_database(name)


@asynccontextmanager
async def throwaway_sql(settings: SettingsOverride, file: Path) -> AsyncIterator[AsyncEngine]:
    """Create an SQL database with the project's tables, named by DATABASE_URL.

    It is the SQLite file ``file``, or, if the environment has TEST_DATABASE_URL, a database on that
    PostgreSQL server, which is dropped afterwards.
    """
    async with _empty_database(settings, file) as url:
        named = settings(database_url=url)
        await create_schema(named, load_project().sql_models)
        async with open_sql(named) as engine:
            yield engine


@asynccontextmanager
async def _empty_database(settings: SettingsOverride, file: Path) -> AsyncIterator[str]:
    server = os.environ.get("TEST_DATABASE_URL")
    if not server:
        yield f"sqlite+aiosqlite:///{file}"
        return
    name = f"test_{uuid4().hex[:12]}"
    at_server = settings(database_url=server)
    await _execute(at_server, f"CREATE DATABASE {name}")
    try:
        url = make_url(str(at_server.database_url)).set(database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        # By force: the test may have left connections open.
        await _execute(at_server, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(settings: Settings, statement: str) -> None:
    async with open_sql(settings) as engine, engine.connect() as connection:
        alone = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await alone.exec_driver_sql(statement)
