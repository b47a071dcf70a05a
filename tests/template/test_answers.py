"""Valid answers make a complete project whatever they contain, and others are refused."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from copier import run_copy
from plumbum import local
from ruff import find_ruff_bin

from tests.template.conftest import rendered_files

SLUGS = {
    "My Project": "my-project",
    "Über-Größe GmbH & Co. KG": "ueber-groesse-gmbh-co-kg",
    "L'été à Łódź": "lete-a-lodz",
    "日本語 😀": "my-project",
    "3D Printing": "d-printing",
    '"Quoted" \\ back\\slash': "quoted-back-slash",
    "<b>Bold</b> {braces}": "b-bold-b-braces",
    "Test": "test-app",
    "JSON": "json-app",
    "Vibetuner Runtime": "vibetuner-runtime-app",
    "Async": "async-app",
    "x" * 60: "x" * 36,
}


@pytest.fixture(autouse=True)
def without_git() -> Iterator[None]:
    """Hide git, which Copier would ask about each file of a template that is no repository."""
    with local.env(PATH=""):
        yield


@pytest.mark.parametrize(("name", "slug"), SLUGS.items())
def test_a_project_of_any_name_is_whole(plain: Path, tmp_path: Path, name: str, slug: str):
    """A project keeps its name as typed, and has a short name for Python and uv."""
    project = answered(plain, tmp_path, project_name=name)

    pyproject = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    assert pyproject["tool"]["vibetuner"]["title"] == name
    assert pyproject["project"]["name"] == slug
    assert (project / "README.md").read_text("utf-8").startswith(f"# {name}\n")
    assert (project / "src" / slug.replace("-", "_") / "tune.py").is_file()
    assert_whole(project)


def test_a_short_name_of_the_greatest_length_is_still_well_formatted(plain: Path, tmp_path: Path):
    """A short name of forty characters, the most allowed, leaves all code well formatted."""
    project = answered(plain, tmp_path, project_slug="a" * 40)

    assert_whole(project)


@pytest.mark.parametrize(
    ("folder", "name", "slug"),
    [
        ("invoice-desk", "Invoice Desk", "invoice-desk"),
        ("myproject", "Myproject", "myproject"),
        ("Über_shop", "Über Shop", "ueber-shop"),
        ("日本語", "日本語", "my-project"),
        ("{{ 1 + 1 }}", "{{ 1 + 1 }}", "my-project"),
        ("two\nlines", "Two Lines", "two-lines"),
        ("---", "My Project", "my-project"),
        ("y" * 80, "Y" + "y" * 59, "y" * 36),
    ],
)
def test_the_folder_names_the_project(
    plain: Path, tmp_path: Path, folder: str, name: str, slug: str
):
    """The folder's name gives the default of the project's name and short name."""
    project = tmp_path / folder
    run_copy(str(plain), project, defaults=True, quiet=True)

    answers = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    assert (answers["project_name"], answers["project_slug"]) == (name, slug)
    assert (project / "src" / slug.replace("-", "_") / "tune.py").is_file()
    assert_whole(project)


def test_a_project_made_in_the_current_folder_has_its_name(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`copier copy … .` gives the project the name of the current folder."""
    project = tmp_path / "invoice-desk"
    project.mkdir()
    monkeypatch.chdir(project)
    run_copy(str(plain), ".", defaults=True, quiet=True)

    assert (project / "src" / "invoice_desk").is_dir()


@pytest.mark.parametrize("folder", ["-dash", "--two", "a b", "plain"])
def test_the_printed_steps_enter_a_folder_of_any_name(
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    folder: str,
):
    """The printed `cd` enters the project's folder, though its name begins with a dash."""
    monkeypatch.chdir(tmp_path)
    run_copy(str(plain), folder, defaults=True)
    [step] = re.findall(r"(?m)^ +(cd .+)$", capfd.readouterr().err)
    entered = subprocess.run(["/bin/sh", "-c", f"{step} && pwd"], capture_output=True, check=True)

    assert entered.stdout.decode().strip() == str(tmp_path / folder)


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        'He said "hi"',
        "back\\slash \\n \\u0041",
        "it's 😀 日本",
        "{{ 1 + 1 }} {% raw %}",
        "# no",
    ],
)
def test_what_is_typed_is_data_and_nothing_else(plain: Path, tmp_path: Path, text: str):
    """Quotes, backslashes and braces reach pyproject.toml and the answers unchanged."""
    project = answered(plain, tmp_path, description=text, author_name=text)

    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    answers = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    assert metadata["description"] == answers["description"] == text
    assert metadata["authors"] == [{"name": text, "email": "you@example.com"}]


def test_only_questions_are_remembered(plain: Path, tmp_path: Path):
    """The answers file holds the answers to questions only, and no computed value."""
    project = answered(plain, tmp_path)

    answers = yaml.safe_load((project / ".copier-answers.yml").read_text("utf-8"))
    assert set(answers) == {
        "_src_path", "author_email", "author_name", "description", "example", "pre_commit",
        "project_name", "project_slug",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"project_slug": "Bad_Slug"}, "Use lower-case letters"),
        ({"project_slug": "-dash"}, "Use lower-case letters"),
        ({"project_slug": "two--dashes"}, "Use lower-case letters"),
        ({"project_slug": "1st"}, "Use lower-case letters"),
        ({"project_slug": "line\n"}, "Use lower-case letters"),
        ({"project_slug": "über"}, "Use lower-case letters"),
        ({"project_slug": "a" * 41}, "at most 40 characters"),
        ({"project_slug": "fastapi"}, "fastapi-app is free"),
        ({"project_slug": "email-validator"}, "email-validator-app is free"),
        ({"project_slug": "lambda"}, "lambda-app is free"),
        ({"project_slug": "tests"}, "tests-app is free"),
        ({"project_name": "  "}, "Give the project a name"),
        ({"project_name": "two\nlines"}, "Use one line"),
        ({"project_name": "x" * 61}, "at most 60 characters"),
        ({"description": "bell\x07"}, "Use one line"),
        ({"description": "x" * 201}, "at most 200 characters"),
        ({"author_name": "\u2028"}, "Give a name"),
        ({"author_name": "a\u2028b"}, "Use one line"),
        ({"author_email": "nobody"}, "Give an address"),
        ({"author_email": 'a"b@example.com'}, "Give an address"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_cure(
    plain: Path, tmp_path: Path, answer: dict[str, str], message: str
):
    """A wrong answer is refused in one line with its cure, and nothing is written."""
    with pytest.raises(ValueError, match="^Validation error") as refused:
        answered(plain, tmp_path, **answer)

    [question] = answer
    assert str(refused.value).startswith(f"Validation error for question '{question}': ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_no_name_of_python_or_of_a_library_is_free():
    """The reserved names include all modules of Python, and all packages that the runtime needs."""
    settings = yaml.safe_load((Path(__file__).parents[2] / "copier.yml").read_text("utf-8"))
    reserved = set(settings["reserved_names"]["default"].split())

    code = (
        "import json, sys, keyword; print(json.dumps([*sys.stdlib_module_names, *keyword.kwlist]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    taken = {name for name in json.loads(output) if name[0] in "abcdefghijklmnopqrstuvwxyz"}
    assert {name for name in taken if name.islower()} <= reserved
    assert required_names("vibetuner-runtime", {"embedded"}) <= reserved


def required_names(name: str, extras: set[str]) -> set[str]:
    """Return the names of a distribution, of all that it needs, and of their modules."""
    from importlib import metadata

    from packaging.requirements import Requirement

    found: set[str] = set()
    todo = [(name, frozenset(extras))]
    seen = set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        found.add(current[0].lower().replace("-", "_").replace(".", "_"))
        for text in metadata.requires(current[0]) or []:
            requirement = Requirement(text)
            wanted = [{"extra": extra} for extra in (*current[1], "")]
            if requirement.marker is None or any(map(requirement.marker.evaluate, wanted)):
                todo.append((requirement.name, frozenset(requirement.extras)))
    for module, distributions in metadata.packages_distributions().items():
        if any(item.lower().replace("-", "_") in found for item in distributions):
            found.add(module)
    return {name for name in found if name.isidentifier() and name.islower() and name[0] != "_"}


def answered(template: Path, folder: Path, **answers: str) -> Path:
    """Render the project that these answers make, and return its folder."""
    project = folder / "my-project"
    run_copy(str(template), project, answers, defaults=True, quiet=True)
    return project


def assert_whole(project: Path) -> None:
    """Assert that every file parses, and that the code is formatted and free of lint."""
    for name, text in rendered_files(project).items():
        if name.endswith((".py", ".yml", ".yaml")):
            parse(Path(name).suffix, text)
    for command in (["format", "--check"], ["check"]):
        process = subprocess.run(
            [find_ruff_bin(), *command, "--no-cache", "--quiet", "."],
            cwd=project, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr


@cache
def parse(suffix: str, text: str) -> None:
    """Parse a file; most are the same in every project."""
    if suffix == ".py":
        ast.parse(text)
    else:
        yaml.safe_load(text)
