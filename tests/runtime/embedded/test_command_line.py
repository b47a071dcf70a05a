"""The commands of ``vibetuner services``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from shutil import which

import pytest


@pytest.fixture
def services(world):
    """Return a function that runs ``vibetuner services ...`` in a project with embedded Redis."""
    package = world.root / "src" / "demo"
    package.mkdir(parents=True)
    (package / "tune.py").write_text("from vibetuner import VibetunerApp\napp = VibetunerApp()\n")
    (world.root / "pyproject.toml").write_text('[project]\nname = "demo"\nversion = "1"\n')
    (world.root / ".env").write_text("REDIS_URL=embedded\n")

    def run(*arguments: str, under: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*under, sys.executable, "-m", "vibetuner", "services", *arguments],
            cwd=world.root,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_status_up_status_down(services, world):
    """`up` starts the services, `status` shows them, and `down` stops them, in plain text."""
    before = services("status")
    assert (before.returncode, before.stdout.count("stopped")) == (3, 2)

    up = services("up")
    assert up.returncode == 0, up.stderr
    assert f"redis    running   {world.service('redis').url}" in up.stdout
    assert "Next:  vibetuner run dev" in up.stdout
    assert "\x1b" not in up.stdout

    during = json.loads(services("status", "--json").stdout)
    assert (during["running"], during["pinned"]) == (True, True)
    assert [service["state"] for service in during["services"]] == ["running", "stopped"]

    assert services("down").returncode == 0
    assert world.stopped()


@pytest.mark.skipif(which("faketime") is None, reason="faketime sets the clock")
def test_the_uptime_is_not_negative_when_the_clock_is_set_back(services):
    """After the clock was set back, services have been up for no time."""
    assert services("up").returncode == 0

    assert "  up 0:00:00  " in services("status", under=("faketime", "-f", "-3h")).stdout


def test_down_names_the_users_of_the_services(services, world):
    """`down` is refused in one line that names the users, unless --force is given."""
    world.user("redis", command="run dev").urls  # noqa: B018

    refused = services("down")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "run dev (pid" in refused.stderr

    assert services("down", "--force").returncode == 0
    assert world.stopped()


def test_up_without_embedded_settings_names_the_line_to_add(services, world):
    """`up` without an embedded setting is refused with the line to add, and starts nothing."""
    (world.root / ".env").write_text("REDIS_URL=redis://127.0.0.1:6379\n")

    refused = services("up")

    assert refused.returncode == 1
    assert "REDIS_URL=embedded" in refused.stderr
    assert world.stopped()


def test_help_tells_the_exit_codes(services):
    """The help of `status` lists its exit codes, which a script needs."""
    assert "3 if they are stopped" in services("status", "--help").stdout
