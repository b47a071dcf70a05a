"""Databases for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from vibetuner.loader import load_project
from vibetuner.resources.mongo import Database, open_mongo
from vibetuner.resources.sql import create_schema, open_sql
from vibetuner.testing.holding import name_database
from vibetuner.testing.overrides import SettingsOverride


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
    """Create a SQLite database in ``file`` with the project's tables, named by DATABASE_URL."""
    named = settings(database_url=f"sqlite+aiosqlite:///{file}")
    await create_schema(named, load_project().sql_models)
    async with open_sql(named) as engine:
        yield engine
