"""The migration on the page about migrations, run by Beanie on the embedded MongoDB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pymongo import MongoClient

from tests.docs.blocks import ROOT, read_blocks
from tests.processes import clean_environment
from vibetuner.embedded import Lease

NAME = "migrated"
BLOCKS = [block.text for block in read_blocks(ROOT / "docs" / "how-to" / "migrations.md")]
EXAMPLE = next(text for text in BLOCKS if "free_fall_migration" in text)
LINE = next(text for text in BLOCKS if "beanie migrate" in text).removeprefix("uv run ").strip()


def test_a_migration_runs_in_a_transaction_of_the_embedded_mongodb(servers: Lease, tmp_path: Path):
    """Beanie migrates a document forward and backward, with its default transaction."""
    folder = tmp_path / "src" / "app" / "mongo_migrations"
    folder.mkdir(parents=True)
    (folder / "20261127000000_rename_title.py").write_text(EXAMPLE, encoding="utf-8")
    url = servers.urls["mongodb"]
    line = LINE.replace("--database_name app", f"--database_name {NAME}")
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = clean_environment(MONGODB_URL=url, PATH=binaries)

    with MongoClient(url) as client:
        client.drop_database(NAME)
        notes = client[NAME]["notes"]
        notes.insert_one({"title": "Milk"})
        found = []
        for options in ("", " --backward --distance 1"):
            subprocess.run(
                ["bash", "-ec", line + options], cwd=tmp_path, env=environment, check=True
            )
            found.append(notes.find_one({}, {"_id": 0}))
        client.drop_database(NAME)

    assert found == [{"name": "Milk"}, {"title": "Milk"}]
