"""The kinds of tests, recognized by the imports and the marks of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kinds import imports_starter, in_turn, is_left_out, rank, unit_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import subprocess\n", True),
        ("from tests.processes import free_port, run_vibetuner\n", True),
        ("from tests.processes import free_port, start_vibetuner\n", True),
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


def test_one_file_that_installs_a_project_comes_first_and_the_others_late():
    """One file that installs a project comes first, and the others come late."""
    names = ("e2e/a", "runtime/b", "template/c", "template/d", "template/e", "cli/f")
    e2e, runtime, update, answers, check, cli = (Path("tests") / name for name in names)
    files = [runtime, cli, update, check, answers, e2e]
    installing, slow = [update, check, e2e], {answers, update}

    ordered = sorted(files, key=lambda path: rank(path, slow, installing))

    assert ordered == [update, answers, check, e2e, cli, runtime]


@pytest.mark.parametrize(
    ("test", "unit"),
    [
        ("tests/e2e/test_sign_in.py::test_one", "tests/e2e/"),
        ("tests/tour/test_3_cron.py::test_one[a::b]", "tests/tour/"),
        ("tests/docs/test_site.py::test_one[tests/e2e/]", "tests/docs/test_site.py"),
    ],
)
def test_a_worker_gets_a_file_or_a_folder_whose_files_share_processes(test: str, unit: str):
    """The tests of a file, or of a folder whose files share processes, go to one worker."""
    assert unit_of(test) == unit


def test_each_worker_imports_another_part_of_the_files_first():
    """Together, the first parts of all workers are all files, and each worker imports every one."""
    files = [Path(f"test_{number}.py") for number in range(7)]
    orders = [in_turn(files, number, 3) for number in range(3)]

    assert [order[0].stem for order in orders] == ["test_0", "test_2", "test_4"]
    assert all(sorted(order) == files for order in orders)
    assert in_turn(files, 3, 3) == files, "a worker that replaces one that has crashed"
