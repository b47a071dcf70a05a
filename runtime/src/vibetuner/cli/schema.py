"""Brings the SQL tables up to date when development starts."""

from __future__ import annotations

import asyncio
import logging

from vibetuner.config import get_settings
from vibetuner.loader import load_project
from vibetuner.project import project_info

logger = logging.getLogger(__name__)


async def make_schema(*, warn: bool = True) -> None:
    """Run the migrations; in a project without any, create missing tables.

    Several processes may do so at once: one works, and the others wait for it.

    Args:
        warn: log differences between models and tables, whose migration is not written yet.
    """
    settings, app, project = get_settings(), load_project(), project_info()
    # Without models, the last migration may still have tables to drop.
    versions = (project.migrations / "versions").glob("*.py")
    if not (settings.database_url and (app.sql_models or any(versions))):
        return
    from vibetuner.resources.schema import find_differences, has_migrations
    from vibetuner.resources.table import explain_differences

    migrated = has_migrations(project)
    if migrated:
        from vibetuner.resources.migrations import Migrations

        migrations = Migrations(project)
        await asyncio.to_thread(migrations.upgrade)
        for line in migrations.applied:
            logger.info("SQL database %s", line)
    else:
        from vibetuner.resources.sql import create_schema

        created = await create_schema(settings, app.sql_models)
        if created:
            logger.info("created the tables %s", ", ".join(created))
    if warn and (differences := await find_differences(settings, app.sql_models)):
        problem = await explain_differences(settings, differences)
        logger.warning("SQL tables differ from the models: %s", problem)
