"""The kinds of tests, recognized by the imports and the marks of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kinds import imports_starter, is_left_out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import subprocess\n", True),
        ("from tests.processes import free_port, run_vibetuner\n", True),
        ("from tests.processes import (\n    Command,\n    vibetuner,\n    wait_until,\n)\n", True),
        ("from tests.valkey import Valkey, opened\n", True),
        ("from tests.processes import (\n    free_port,\n)\nfrom vibetuner import sse\n", False),
        ("from tests.processes import free_port\nfrom vibetuner import VibetunerApp\n", False),
        ("import vibetuner\n\nTEXT = 'import subprocess'\n", False),
    ],
)
def test_a_file_starts_processes_if_it_imports_something_that_does(
    text: str, expected: bool, tmp_path: Path
):
    """An import of something that starts a process is found on one line or several."""
    file = tmp_path / "test_it.py"
    file.write_text(text, encoding="utf-8")

    assert imports_starter(file) is expected
    assert is_left_out(file) is expected


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("pytestmark = pytest.mark.slow\n", True),
        ("pytestmark = [pytest.mark.usefixtures('fresh'), pytest.mark.process]\n", True),
        ("pytestmark = pytest.mark.usefixtures('slow')\n", False),
        ("@pytest.mark.slow\ndef test_one(): ...\n", False),
    ],
)
def test_a_mark_of_the_whole_file_leaves_it_out(mark: str, expected: bool, tmp_path: Path):
    """Only a mark of the whole module leaves a file out, as any other test of it may run."""
    file = tmp_path / "test_it.py"
    file.write_text(mark, encoding="utf-8")

    assert is_left_out(file) is expected
