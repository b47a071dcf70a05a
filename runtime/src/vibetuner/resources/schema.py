"""SQL tables: a column type for times, and a comparison of tables with models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, DateTime, Dialect, Table, inspect
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import TypeDecorator
from sqlmodel import SQLModel

from vibetuner.config import Settings
from vibetuner.errors import ServiceUnavailable, first_line
from vibetuner.project import ProjectInfo
from vibetuner.resources.slots import sql_engine
from vibetuner.resources.sql import open_sql, table_of

__all__ = ["UtcDateTime", "find_differences", "has_migrations"]


class UtcDateTime(TypeDecorator[datetime]):
    """A column for times: aware and in UTC in every database.

    SQLite forgets the time zone of a plain ``DateTime(timezone=True)``.

    Raises:
        ValueError: a time without a time zone is stored.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the value to store."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone. Use datetime.now(UTC)")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the stored time, in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


async def find_differences(settings: Settings, models: Sequence[type[SQLModel]]) -> list[str]:
    """Return the differences that make statements fail, such as missing tables and columns.

    Uses the process's engine if it is open. An additional column or table is not a difference, so
    that an older version can go on while a newer one is deployed.

    Raises:
        ServiceUnavailable: the database refuses, or does not answer.
    """
    tables = [table_of(model) for model in models]
    if not tables:
        return []
    engine = sql_engine.peek()
    if engine is None:
        async with open_sql(settings):
            return await find_differences(settings, models)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(lambda sync: list(_differences(sync, tables)))
    except (SQLAlchemyError, OSError) as error:
        raise ServiceUnavailable(
            f"SQL database: its tables can't be read: {first_line(error)}. "
            "Allow its user to read the catalogue"
        ) from error


def has_migrations(project: ProjectInfo) -> bool:
    """Return whether the project has an Alembic environment."""
    return (project.migrations / "env.py").is_file()


def _differences(connection: Connection, tables: Sequence[Table]) -> Iterator[str]:
    inspector = inspect(connection)
    for schema in sorted({table.schema for table in tables}, key=str):
        ours = [table for table in tables if table.schema == schema]
        found = inspector.get_multi_columns(
            schema=schema, filter_names=[table.name for table in ours], kind=ObjectKind.ANY
        )
        for table in ours:
            columns = found.get((schema, table.name))
            if columns is None:
                yield f"table {table.name} is missing"
            else:
                yield from _differing_columns(table, {one["name"]: one for one in columns})


def _differing_columns(table: Table, found: dict[str, Any]) -> Iterator[str]:
    names = {column.name for column in table.columns}
    for column in table.columns:
        if column.name not in found:
            yield f"column {table.name}.{column.name} is missing"
    for name, column in found.items():
        filled = any(column.get(key) for key in ("nullable", "default", "identity", "computed"))
        if name not in names and not filled:
            yield f"column {table.name}.{name} must have a value and is in no model"
