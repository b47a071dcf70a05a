"""A container's health check reads the address of Redis from a secret, as the worker does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import clean_environment
from tests.projects import write_project


def test_worker_health_takes_the_address_of_redis_from_a_secret(tmp_path: Path):
    """`worker-health` reads the secret redis_url if REDIS_URL is empty, and masks the password."""
    root = write_project(tmp_path / "project")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "redis_url").write_text("redis://:hunter2@127.0.0.1:1\n")
    done = subprocess.run(
        [sys.executable, "-m", "vibetuner", "worker-health"],
        cwd=root,
        env=clean_environment(REDIS_URL="", SECRETS_DIR=str(secrets)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "127.0.0.1:1 can't be used" in done.stderr
    assert "hunter2" not in done.stderr
