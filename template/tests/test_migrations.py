"""The migrations: they make the tables that the models describe, and undo it."""

from pathlib import Path

from vibetuner.resources.migrations import Migrations
from vibetuner.testing import SettingsOverride


def test_they_lead_to_the_models_and_back(
    vibetuner_settings: SettingsOverride, tmp_path: Path
) -> None:
    """A model that was changed without a migration fails this test."""
    vibetuner_settings(database_url=f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")
    migrations = Migrations()
    migrations.upgrade()
    migrations.check()
    migrations.downgrade("base")
    migrations.upgrade()
