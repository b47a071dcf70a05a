"""Creates the tables: ``python -m webshop.tables``."""

from __future__ import annotations

import asyncio

from vibetuner.config import get_settings
from vibetuner.resources.sql import create_schema

from .tune import app

if __name__ == "__main__":
    asyncio.run(create_schema(get_settings(), app.sql_models))
