"""All that `vibetuner new` writes is formatted, free of lint, and can be removed again.

Types and tests are checked by test_check.py, where a project is installed.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.environments import render
from tests.processes import clean_environment, run_code
from tests.template.conftest import rendered_files, run

pytestmark = pytest.mark.slow

VARIANTS = [
    "task plain-one",
    "task billing/deep/in-a-folder",
    "task nightly-clean --cron '0 3 * * *'",
    "task hourly-look --cron '0 */1 * * *' --timeout 90s --unique",
    "task outcome --unique",
    "task result --timeout 90",
    "task sync-one --sync",
    "task sync-cron --sync --cron '*/5 * * * *'",
    "task sync-unique --sync --unique --timeout 1h",
    "task untested --no-test",
    "task watched --progress --timeout 10m",
    "task billing/watched-too --progress --unique",
    "batch statements",
    "batch billing/letters",
    "batch untested-batch --no-test",
    "task signup",
    f"task {'l' * 29}",
    "route reports",
    "route billing/open-invoices",
    f"route {'p' * 29}",
    "route untested-page --no-test",
    "model plain",
    "model invoice number:str paid:bool cents:int at:datetime due:date key:uuid rate:float",
    "model draft number:str? paid:bool? cents:int? at:datetime? due:date? key:uuid? rate:float?",
    f"model {'m' * 29} {'f' * 40}:datetime",
    "model note --document text:str stars:int? at:datetime ok:bool rate:float when:datetime?",
    "model small --document",
    "model untested --no-test",
    "auth",
]
LOOKS = [("ruff", "format", "--check", "--diff"), ("ruff", "check")]


# In a project with the example and a short name, test_check.py generates and checks all of them.
@pytest.mark.parametrize(("slug", "example"), [("a" * 40, True), ("shop", False)])
def test_every_variant_is_formatted_and_free_of_lint(
    plain: Path, tmp_path: Path, slug: str, example: bool
):
    """Each variant is clean in projects of a short and of the longest name, and is removed."""
    project = render(plain, tmp_path / "project", project_slug=slug, example=example)
    before = rendered_files(project)
    generate(project)
    for look in LOOKS:
        command = (sys.executable, "-m", *look, "--no-cache", ".")
        run(*command, cwd=project, environment=clean_environment())
    destroy_all(project)

    after = rendered_files(project)
    tune = f"src/{slug}/tune.py"
    assert {name for name in before if before[name] != after[name]} == {tune}
    left = {name.rpartition("/")[2] for name in after.keys() - before if "/versions/" not in name}
    assert left <= {"__init__.py"}
    # Migrations stay, as a database may have run them; each follows the one before.
    migrations = [name for name in after.keys() - before if "/versions/" in name]
    assert len(migrations) == sum(
        variant.startswith(("model", "auth")) and "--document" not in variant
        for variant in VARIANTS
    )


def generate(project: Path) -> None:
    """Generate all variants in one process, as starting one for each would take minutes."""
    type_all(project, [["new", *shlex.split(variant)] for variant in VARIANTS])


def destroy_all(project: Path) -> None:
    """Remove all that was generated."""
    type_all(project, [["destroy", *variant.split()[:2]] for variant in VARIANTS])


def type_all(project: Path, commands: list[list[str]]) -> None:
    script = (
        "import json, sys\nfrom typer.main import get_command\nfrom vibetuner.cli.main import app\n"
        "vibetuner = get_command(app)\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert not vibetuner(command, standalone_mode=False), command\n"
    )
    arguments = (script, json.dumps(commands))
    done = run_code(*arguments, folder=project, seconds=600, REDIS_URL="", MONGODB_URL="")
    assert done.returncode == 0, done.stdout + done.stderr
