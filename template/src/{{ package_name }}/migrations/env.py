"""Alembic's environment: `vibetuner db` and `alembic` load it to reach the database."""

from vibetuner.resources.migrations import run_migrations

run_migrations()
