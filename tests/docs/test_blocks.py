"""The code of each page runs: its files make a project, in which its commands are run."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from re import DOTALL, MULTILINE

import pytest

from tests.docs.blocks import PAGES, ROOT, Block, differs, read_blocks
from tests.processes import free_port, run_code, run_pytest
from vibetuner.embedded import Lease
from vibetuner.testing import name_database

TEMPLATE = ROOT / "template" / "src" / "{{ package_name }}"
PLAY = Path(__file__).with_name("play.py")
TUTORIAL = ROOT / "docs" / "tutorial.md"
# The pages with code that runs; test_tutorial.py follows the tutorial.
PLAYED = [
    page
    for page in PAGES
    if page != TUTORIAL
    and any(b.language in {"python", "bash"} and not b.why_not_run for b in read_blocks(page))
]
# The pages that show files of a project.
WITH_FILES = [
    page for page in PAGES if any(b.file and b.language == "python" for b in read_blocks(page))
]
ANNOTATED = ("--extend-select", "ANN001,ANN201,ANN202")
DECORATORS = {"task", "cron", "robust_task", "robust_cron"}
PYPROJECT = """
[project]
name = "{package}"
version = "0.1.0"

[tool.pytest.ini_options]
addopts = ["--import-mode=importlib"]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
filterwarnings = ["error"]
"""
# A page shows a part of a project, so ruff can't see what else is in its package.
ISORT = "[lint.isort]\nknown-first-party = {}\n"


@pytest.mark.slow
@pytest.mark.parametrize("page", PLAYED, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(
    page: Path, servers: Lease, tmp_path: Path
):
    """A page's code runs on real servers beside a worker, and prints what the page shows."""
    blocks = [block for block in read_blocks(page) if not block.why_not_run]
    write_files(tmp_path / "project", blocks)
    steps = [b for b in blocks if not b.file and b.language in {"python", "bash"}]

    report, log = play(page, tmp_path, steps, servers) if steps else ([], "")

    for step, seen in zip(steps, report, strict=False):
        assert not seen["error"], f"{step.place}\n{seen['error']}\n{log}"
        if step.output is not None:
            difference = differs(step.output, seen["output"])
            assert difference is None, f"{step.place}\n{difference}"
    assert len(report) == len(steps)
    run_its_tests(tmp_path / "project")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_does_not_run_says_why(page: Path):
    """Each block of Python and shell runs, or its page gives the reason in a comment.

    Every block names its language, and no page but the tutorial shows a file twice.
    """
    blocks = read_blocks(page)
    fences = sum(line.lstrip().startswith("```") for line in page.read_text("utf-8").splitlines())

    assert fences == 2 * sum(2 if block.output is not None else 1 for block in blocks), "indented"
    assert [b.place for b in blocks if not b.language] == [], "each names its language"
    assert [b.place for b in blocks if b.why_not_run == ""] == []
    files = [block.file for block in blocks if block.file and not block.why_not_run]
    assert page == TUTORIAL or len(files) == len(set(files)), "a file is shown once, whole"


@pytest.mark.parametrize("page", WITH_FILES, ids=lambda page: page.stem)
def test_the_files_of_a_page_pass_a_projects_own_lint(page: Path, tmp_path: Path):
    """The Python files of a page pass the lint and the format of a generated project.

    Functions are annotated, as a project's mypy is strict; examples may print.
    """
    blocks = [b for b in read_blocks(page) if b.file and b.language == "python"]
    write_files(tmp_path, blocks)
    packages = [path.name for path in (tmp_path / "src").iterdir()]
    (tmp_path / "ruff.toml").write_text(projects_lint() + ISORT.format(packages), "utf-8")
    files = [tmp_path / block.file for block in blocks if block.file]
    for look in (("check", "--ignore", "T201", *ANNOTATED), ("format", "--diff")):
        command = (sys.executable, "-m", "ruff", *look, "--quiet", "--no-cache", *files)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}\n{done.stdout}{done.stderr}"


def projects_lint() -> str:
    """Return the ruff settings of a generated pyproject.toml, as a file of ruff's own."""
    template = (ROOT / "template" / "pyproject.toml.jinja").read_text(encoding="utf-8")
    [section] = re.findall(r"^\[tool\.ruff\].*?(?=^\[tool\.(?!ruff))", template, MULTILINE | DOTALL)
    return re.sub(r"(?m)^\[tool\.ruff\.?", "[", section).removeprefix("[]\n")


def write_files(project: Path, blocks: list[Block]) -> None:
    """Write a project of the page's files, and of defaults for what the page leaves out."""
    files = {block.file: block.text for block in blocks if block.file}
    package = next((name.split("/")[1] for name in files if name.startswith("src/")), "app")
    source = f"src/{package}"
    files.setdefault("pyproject.toml", PYPROJECT.format(package=package.replace("_", "-")))
    files.setdefault(f"{source}/tune.py", tune(files, package))
    for own in ("templates/base.html", "static/app.css", "static/icon.svg"):
        files.setdefault(f"{source}/{own}", (TEMPLATE / own).read_text("utf-8"))
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if name.startswith("src/") and name.endswith(".py"):
            for folder in path.relative_to(project / "src").parents[:-1]:
                (project / "src" / folder / "__init__.py").touch()


def tune(files: dict[str, str], package: str) -> str:
    """Return a tune.py that lists the tasks and routes of the page's files."""
    imports, tasks, routes = [], [], []
    for name, text in files.items():
        if not name.startswith(f"src/{package}/") or not name.endswith(".py"):
            continue
        module = name.removeprefix("src/").removesuffix(".py").replace("/", ".")
        found = list(task_names(text))
        imports += [f"from {module} import {task}" for task in found]
        tasks += found
        if "router = APIRouter(" in text:
            alias = module.replace(".", "_")
            imports.append(f"from {module} import router as {alias}")
            routes.append(alias)
    return "\n".join(
        [
            *imports,
            "from vibetuner import VibetunerApp",
            f"app = VibetunerApp(tasks=[{', '.join(tasks)}], routes=[{', '.join(routes)}])",
            "",
        ]
    )


def task_names(text: str) -> Iterator[str]:
    """Yield the names of the functions that a file declares as tasks."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = {ast.unparse(item).split("(")[0].split(".")[-1] for item in node.decorator_list}
            if names & DECORATORS:
                yield node.name


def play(
    page: Path, folder: Path, steps: list[Block], servers: Lease
) -> tuple[list[dict[str, str | None]], str]:
    """Play the steps in a process of their own; return their report and the log."""
    passed = [
        {
            "language": s.language,
            "text": s.text,
            "place": s.place,
            "note": s.note,
            "output": s.output,
        }
        for s in steps
    ]
    ended = run_code(
        f"import runpy; runpy.run_path({str(PLAY)!r}, run_name='__main__')",
        str(folder / "report.json"),
        str(free_port()),
        json.dumps(passed),
        folder=folder / "project",
        seconds=300,
        REDIS_URL=servers.urls["redis"],
        REDIS_KEY_PREFIX=f"docs-{page.stem}",
        MONGODB_URL=name_database(servers.urls["mongodb"], f"docs_{page.stem}"),
        SECRET_KEY="a key that the documentation's tests share",
        ENVIRONMENT="test",
    )
    assert ended.returncode == 0, f"{page}\n{ended.stdout}\n{ended.stderr}"
    return json.loads((folder / "report.json").read_text("utf-8")), ended.stderr


def run_its_tests(project: Path) -> None:
    """Assert that all tests that a page shows pass without a running process."""
    if not (project / "tests").is_dir():
        return
    ended = run_pytest("--override-ini=pythonpath=src", "tests", folder=project)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    texts = [path.read_text("utf-8") for path in (project / "tests").rglob("test_*.py")]
    written = sum(text.count("def test_") for text in texts)
    assert f"{written} passed" in ended.stdout
