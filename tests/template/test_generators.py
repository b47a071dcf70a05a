"""Whatever `vibetuner new` writes, a generated project's own checks have nothing to say."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from copier import run_copy

from tests.processes import clean_environment
from tests.template.conftest import run

pytestmark = pytest.mark.slow

VARIANTS = [
    "task plain-one",
    "task billing/deep/in-a-folder",
    "task nightly-clean --cron '0 3 * * *'",
    "task hourly-look --cron '0 */1 * * *' --timeout 90s --unique",
    "task only-one --unique",
    "task quick-one --timeout 90",
    "task sync-one --sync",
    "task sync-cron --sync --cron '*/5 * * * *'",
    "task sync-unique --sync --unique --timeout 1h",
    "task untested --no-test",
    "task signup",
    f"task {'l' * 40}",
    "route reports",
    "route billing/open-invoices",
    f"route {'p' * 40}",
    "route untested-page --no-test",
    "model plain",
    "model invoice number:str paid:bool cents:int at:datetime due:date key:uuid rate:float",
    "model draft number:str? paid:bool? cents:int? at:datetime? due:date? key:uuid? rate:float?",
    f"model {'m' * 40} {'f' * 40}:datetime",
    "model note --document text:str stars:int? at:datetime ok:bool rate:float when:datetime?",
    "model small --document",
    "model untested --no-test",
]
LOOKS = [("ruff", "format", "--check", "--diff"), ("ruff", "check")]


@pytest.mark.parametrize("slug", ["shop", "a" * 40])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_alone_is_formatted_and_free_of_lint(
    rendered: dict[str, Path], slug: str, variant: str
):
    """In a project of a short name and in one of the longest; and it is taken back again."""
    project = rendered[slug]
    generate(project, variant)
    try:
        for look in LOOKS:
            command = (sys.executable, "-m", *look, "--no-cache", ".")
            run(*command, cwd=project, environment=clean_environment())
    finally:
        kind, name = variant.split()[:2]
        vibetuner(project, "destroy", kind, name, "--force")


def test_all_of_them_together_pass_the_projects_own_check(plain: Path, tmp_path: Path):
    """Format, lint, types and tests, as `just check` runs them."""
    project = tmp_path / "shop"
    run_copy(str(plain), project, data={"project_slug": "shop"}, defaults=True, quiet=True)
    environment = clean_environment(UV_NO_GITHUB_FAST_PATH="1")
    run("uv", "sync", "--quiet", cwd=project, environment=environment, seconds=600)
    for variant in VARIANTS:
        generate(project, variant)

    check = ("uv", "run", "just", "check")
    checked = run(*check, cwd=project, environment=environment, seconds=900)
    assert " passed" in checked.stdout
    for name in ("test_plain_one.py", "test_reports.py", "test_invoice.py", "test_note.py"):
        assert name in checked.stdout


@pytest.fixture(scope="module")
def rendered(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Projects that need not be installed for a look at their code."""
    projects = {}
    for slug in ("shop", "a" * 40):
        projects[slug] = tmp_path_factory.mktemp("rendered") / "project"
        data = {"project_slug": slug}
        run_copy(str(plain), projects[slug], data=data, defaults=True, quiet=True)
    return projects


def generate(project: Path, variant: str) -> None:
    vibetuner(project, "new", *shlex.split(variant))


def vibetuner(project: Path, *arguments: str) -> None:
    command = (sys.executable, "-m", "vibetuner", *arguments)
    run(*command, cwd=project, environment=clean_environment(REDIS_URL="", MONGODB_URL=""))
