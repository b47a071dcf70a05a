"""``sys.exit()`` in a module that is imported: a line that names the place, wherever it is read."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from tests.processes import free_port, run_vibetuner
from tests.projects import write_project
from vibetuner.embedded import Lease

EXITS = """
    import sys

    if True:
        sys.exit(2)
"""
TUNE = """
    import shop.routes
    from vibetuner import VibetunerApp

    app = VibetunerApp()
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["run", "prod", "worker"], "tasks"),
        (["run", "prod", "frontend", "--port", "PORT"], "routes"),
        (["tasks", "enqueue", "add"], "tasks"),
        (["doctor"], "tasks"),
    ],
    ids=["worker", "web", "tasks", "doctor"],
)
def test_every_command_names_the_line(
    tmp_path: Path, servers: Lease, command: list[str], module: str
):
    """The line is named if tune.py imports it, and if only the search for tasks does."""
    files = {"routes.py": "", "tasks.py": "", f"{module}.py": EXITS}
    shop = write_project(tmp_path / "shop", files, tune=TUNE)

    done = run_vibetuner(
        *(word.replace("PORT", str(free_port())) for word in command),
        folder=shop,
        REDIS_URL=servers.urls["redis"],
        REDIS_KEY_PREFIX=f"test-{uuid4().hex[:8]}",
        SECRET_KEY="Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
    )

    said = done.stdout if command == ["doctor"] else done.stderr
    assert f"{shop}/src/shop/{module}.py:4: sys.exit(2) is called while the module is" in said
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
