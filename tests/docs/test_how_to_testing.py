"""The page on testing, as the project that it describes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.processes import clean_environment
from tests.projects import write_project

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "testing.md"
SETTINGS = """
[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
filterwarnings = ["error"]
pythonpath = ["src"]
"""


def test_every_block_of_the_page_runs(tmp_path: Path):
    """Each one is a file, whose name is its first line; together they pass."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == PAGE.read_text().count("```python")
    project = write_project(tmp_path / "project", tune=None)
    for name, text in blocks:
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    with (project / "pyproject.toml").open("a") as file:
        file.write(SETTINGS)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    written = sum(text.count("def test_") for _, text in blocks)
    assert f"\n{written} passed" in done.stdout
