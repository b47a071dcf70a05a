"""The SQL schema, made where it is missing."""

from __future__ import annotations

import logging

from vibetuner.config import get_settings
from vibetuner.loader import load_project

__all__ = ["make_schema"]

logger = logging.getLogger(__name__)


async def make_schema() -> None:
    """Create the tables that are missing, so that a first start in development just works."""
    settings, app = get_settings(), load_project()
    if settings.database_url and app.sql_models:
        from vibetuner.resources.sql import create_schema

        created = await create_schema(settings, app.sql_models)
        if created:
            logger.info("created the tables %s", ", ".join(created))
