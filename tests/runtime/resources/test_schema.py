"""Tables compared with models, and times in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Column, text
from sqlalchemy.exc import StatementError
from sqlmodel import Field, SQLModel, select

from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable
from vibetuner.project import project_info
from vibetuner.resources.schema import UtcDateTime, find_differences, has_migrations
from vibetuner.resources.sql import create_schema, open_session, open_sql
from vibetuner.resources.table import probe_tables


class Berth(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))


async def test_a_time_comes_back_in_utc(settings: Settings):
    """A time is stored and read in UTC; one without a zone is refused, and None stays None."""
    await create_schema(settings, [Berth])
    there = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    async with open_sql(settings):
        async with open_session() as session:
            session.add_all([Berth(at=there), Berth(at=None)])
            await session.commit()
            found = list(await session.exec(select(Berth.at).order_by(Berth.id)))
        assert found == [datetime(2026, 5, 1, 10, tzinfo=UTC), None]
        assert found[0].tzinfo is UTC
        async with open_session() as session:
            session.add(Berth(at=datetime(2026, 5, 1)))  # noqa: DTZ001
            with pytest.raises(StatementError, match="has no time zone. Use datetime.now"):
                await session.commit()


async def test_differences_that_break_statements_are_named(settings: Settings):
    """A missing table or column is named, and an extra column only if it must have a value."""
    assert await find_differences(settings, []) == []
    assert await find_differences(settings, [Berth]) == ["table berth is missing"]
    async with open_sql(settings):
        async with open_session() as session:
            await session.exec(
                text("CREATE TABLE berth (id INTEGER PRIMARY KEY, note TEXT, pier TEXT NOT NULL)")
            )
            await session.commit()
        assert await find_differences(settings, [Berth]) == [
            "column berth.at is missing",
            "column berth.pier must have a value and is in no model",
        ]


@pytest.fixture
def broken(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings with a file that is no database."""
    file = tmp_path / "broken.db"
    file.write_bytes(b"no database at all" * 100)
    return settings.model_copy(update={"database_url": f"sqlite+aiosqlite:///{file}"})


async def test_tables_that_cannot_be_read_are_one_line(broken: Settings, refused_by_sqlite: None):
    """Tables that can't be read are one line with the database's error, as in readiness."""
    with pytest.raises(ServiceUnavailable) as caught:
        await find_differences(broken, [Berth])
    [probe] = await probe_tables(broken, [Berth])
    assert probe.problem == str(caught.value)
    assert "\n" not in probe.problem


async def test_a_comparison_has_a_time_limit(settings: Settings):
    """A comparison that exceeds its time limit is reported as no answer."""
    [probe] = await probe_tables(settings, [Berth], seconds=0)
    assert probe.problem == "SQL tables: no answer within 0 s. Look at the database's load"
    assert await probe_tables(settings, []) == []


def test_migrations_are_known_by_their_environment(stand_in):
    """A project has migrations if Alembic's env.py is in its folder."""
    root = stand_in()
    assert has_migrations(project_info()) is False
    folder = root / "src" / project_info().package / "migrations"
    folder.mkdir()
    (folder / "env.py").write_text("")
    assert has_migrations(project_info()) is True
