"""The search for tune.py, and its import."""

from __future__ import annotations

import sys

import pytest

from tests.projects import EMPTY_TUNE, write
from vibetuner import VibetunerApp
from vibetuner.errors import NotConfigured, ProjectError
from vibetuner.loader import Terminated, load_project


def test_the_project_is_loaded_once(stand_in):
    """The project is loaded once, with its source folder on the path."""
    root = stand_in()

    app = load_project()

    assert isinstance(app, VibetunerApp)
    assert load_project() is app
    assert str(root / "src") in sys.path


@pytest.mark.parametrize(
    ("tune", "files", "expected"),
    [
        ("app = = 1\n", {}, "src/shop/tune.py:1: syntax error: invalid syntax"),
        ("import nothing_like_it\n", {}, "src/shop/tune.py:1: ModuleNotFoundError: No module"),
        (
            "from shop import jobs\n",
            {"jobs.py": "x = 1\n\n1 / 0\n"},
            "src/shop/jobs.py:3: ZeroDivision",
        ),
        ("from shop import jobs\n", {"jobs.py": "def f(:\n"}, "src/shop/jobs.py:1: syntax error"),
        ("raise ValueError\n", {}, "src/shop/tune.py:1: ValueError: no message"),
        ("raise GeneratorExit\n", {}, "src/shop/tune.py:1: GeneratorExit: no message"),
        (
            "import asyncio\nraise BaseExceptionGroup('odd', [asyncio.CancelledError()])\n",
            {},
            "src/shop/tune.py:2: BaseExceptionGroup: odd (1 sub-exception)",
        ),
        ("from shop import jobs\n", {"jobs.py": "x = 1\0\n"}, "null bytes"),
        ("raise ValueError('a\\nb')\n", {}, "src/shop/tune.py:1: ValueError: a"),
        (
            "import sys\nsys.exit('no key')\n",
            {},
            "src/shop/tune.py:2: sys.exit('no key') is called while the module is imported. Put it",
        ),
        ("import sys\nsys.exit()\n", {}, "src/shop/tune.py:2: sys.exit() is called while"),
        ("raise SystemExit(0)\n", {}, "src/shop/tune.py:1: sys.exit(0) is called while"),
        (
            "from shop import jobs\n",
            {"jobs.py": "import argparse\n\nargparse.ArgumentParser().parse_args(['-x'])\n"},
            "src/shop/jobs.py:3: sys.exit(2) is called",
        ),
        (
            "from streaq import WorkerDepends\n",
            {},
            "tune.py:1: ImportError: cannot import name 'WorkerDepends' from 'streaq'. "
            "Write:  from vibetuner.tasks import WorkerDepends",
        ),
        (
            "import httpx\n",
            {},
            "tune.py:1: ModuleNotFoundError: No module named 'httpx'. Import httpx2, which comes",
        ),
        (
            "import nothing_like_it.at_all\n",
            {},
            "If it is a package that is not installed:  uv add nothing_like_it",
        ),
        (
            "import shop.parts.engine\n",
            {"parts/__init__.py": ""},
            "No module named 'shop.parts.engine'. Correct the import, or create "
            "src/shop/parts/engine.py",
        ),
        ("ap = 1\n", {}, "found nothing named app"),
        ("app = []\n", {}, "expected `app = VibetunerApp(...)`, found a list named app"),
        (EMPTY_TUNE.replace("()", "(task=[])"), {}, "'task'. Did you mean tasks=?"),
        (
            EMPTY_TUNE.replace("()", "(xyz=[])"),
            {},
            "'xyz'. It takes tasks, queues, routes, models, sql_mo",
        ),
        (
            EMPTY_TUNE.replace("()", "(tasks=print)"),
            {},
            "tune.py:3: TypeError: tasks= takes a list",
        ),
    ],
)
def test_a_broken_tune_is_one_line_with_file_and_line(stand_in, tune, files, expected):
    """An error in tune.py is one line, which names the project's own file and line."""
    stand_in(files, tune=tune)

    with pytest.raises(ProjectError) as caught:
        load_project()

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_ours_passes_as_it_is(stand_in):
    """An error of the runtime that tune.py raises, which has its cure, is raised as it is."""
    tune = "from vibetuner.errors import NotConfigured\nraise NotConfigured('add this')\n"
    stand_in(tune=tune)

    with pytest.raises(NotConfigured, match="^add this$"):
        load_project()


def test_a_package_whose_name_is_taken_is_named_with_its_place(stand_in):
    """A package whose name belongs to an installed module is refused with its place."""
    root = stand_in()
    (root / "src" / "shop").rename(root / "src" / "email")

    with pytest.raises(ProjectError, match=r"package src/email is taken by .*Rename the package"):
        load_project()


def test_this_checkout_wins_over_an_installed_copy(stand_in, tmp_path):
    """The project in this checkout takes precedence over an installed copy of it."""
    write(tmp_path / "installed" / "shop" / "__init__.py", "")
    write(tmp_path / "installed" / "shop" / "tune.py", "raise RuntimeError('the old copy')\n")
    sys.path.append(str(tmp_path / "installed"))
    stand_in()

    assert isinstance(load_project(), VibetunerApp)


def test_a_signal_during_the_import_is_no_fault_of_the_project(stand_in):
    """A signal during the import is raised as it is, and not as an error of the project."""
    stand_in(tune="from vibetuner.loader import Terminated\nraise Terminated\n")

    with pytest.raises(Terminated):
        load_project()
