"""The files of a new project."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, StrictUndefined

from tests.environments import render
from tests.processes import clean_environment
from tests.template.conftest import ROOT, rendered_files, run
from vibetuner.templates import make_environment

MANAGED = {
    ".copier-answers.yml",
    ".devcontainer/compose.yml",
    ".devcontainer/devcontainer.json",
    ".dockerignore",
    ".editorconfig",
    ".env.example",
    ".github/workflows/ci.yml",
    ".gitignore",
    ".just/main.just",
    ".just/quality.just",
    ".just/run.just",
    ".just/update.just",
    "Dockerfile",
    "compose.dev.yml",
    "compose.prod.yml",
    "pyproject.toml",
}
PATHS = {
    "{{ package_name }}": "my_project",
    "{{ _copier_conf.answers_file }}": ".copier-answers.yml",
}
SEEDS = (
    ".vscode/", "AGENTS.md", "CLAUDE.md", "README.md", "compose.images.yml", "justfile", "src/",
    "tests/",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render a project with default answers, without trust."""
    return render(plain, tmp_path_factory.mktemp("rendered") / "my-project")


@pytest.fixture(scope="module")
def bare(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render a project without the example."""
    return render(plain, tmp_path_factory.mktemp("bare") / "my-project", example=False)


def test_nothing_in_the_template_asks_for_trust():
    """The template has no tasks, migrations or extensions, for which Copier would ask for trust."""
    settings = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))

    assert not {"_tasks", "_migrations", "_jinja_extensions", "_external_data"} & set(settings)


def test_exclusions_need_no_answer():
    """Each exclusion can be rendered without answers, as a project of an old release has fewer.

    In an update, Copier renders the new exclusions with the old version's answers.
    """
    settings = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))
    environment = Environment(undefined=StrictUndefined)

    entries = [environment.from_string(entry) for entry in settings["_exclude"]]
    excluded = [entry.render(_copier_operation="copy") for entry in entries]

    assert "/.pre-commit-config.yaml" in excluded


def test_every_file_is_either_the_users_or_the_templates(project: Path, bare: Path):
    """Each rendered file is on the list of the user's files or on that of the template's."""
    for folder in (project, bare):
        files = set(rendered_files(folder))
        assert {name for name in files if not name.startswith(SEEDS)} == MANAGED


def test_without_the_example_there_is_one_page_one_task_and_its_test(project: Path, bare: Path):
    """Without the example, a project has one page, one task and two tests, and no trace of it.

    The template's own files are the same with it and without.
    """
    with_it, without = rendered_files(project), rendered_files(bare)
    only = {name for name in without.keys() - with_it.keys() if name.endswith((".py", ".html"))}
    assert only == {
        "src/my_project/frontend/routes/home.py", "src/my_project/tasks/count.py",
        "src/my_project/templates/home.html", "tests/test_home.py",
    }  # fmt: skip
    tests = [name for name in without if name.startswith("tests/")]
    assert tests == ["tests/test_home.py", "tests/test_migrations.py"]
    words = re.compile(r"(?i)\bexports?\b|sign.?up|orders?\b")
    named = [name for name in without if name.endswith((".py", ".html", ".toml", ".md"))]
    assert not [name for name in named if words.search(without[name])]
    managed = MANAGED - {".copier-answers.yml"}
    assert {name: with_it[name] for name in managed} == {name: without[name] for name in managed}


def test_a_page_of_the_project_needs_no_name_for_the_navigation(project: Path):
    """A page that extends base.html as the guides show it is rendered with the example's links."""
    environment = make_environment(project / "src/my_project/templates", auto_reload=False)
    environment.globals.update(project={"name": "Shop"}, static=str)

    page = environment.from_string("{% extends 'base.html' %}").render()

    assert 'href="/signup"' in page
    assert "aria-current" not in page


def test_both_lists_of_the_users_files_are_the_same():
    """The list of excluded files equals that of skipped ones, except for compose.images.yml.

    A deleted file that is only skipped returns, and one that is only excluded is overwritten by
    recopy. Compose needs its images, so an update adds them to a project that has no such file.
    """
    settings = yaml.safe_load((ROOT / "copier.yml").read_text("utf-8"))

    form = r"\{% if _copier_operation == 'update' %\}(.+)\{% endif %\}"
    excluded = [m[1] for entry in settings["_exclude"] if (m := re.fullmatch(form, entry))]
    skipped = settings["_skip_if_exists"]
    assert excluded == [entry for entry in skipped if entry != "/compose.images.yml"]
    assert {entry.strip("/") for entry in skipped} == {seed.strip("/") for seed in SEEDS}


def test_what_copier_renders_keeps_no_trace_of_its_own_language(project: Path, bare: Path):
    """The rendered files contain no expression of Copier's language."""
    files = rendered_files(bare) | rendered_files(project)
    for path in (ROOT / "template").rglob("*.jinja"):
        name = path.relative_to(ROOT / "template").as_posix().removesuffix(".jinja")
        for expression, value in PATHS.items():
            name = name.replace(expression, value)
        assert not re.search(r"\{\{|\{%|\{#|\}\}|%\}", files[name]), name
    assert not [name for name in files if "{" in name or name.endswith(".jinja")]


def test_the_editors_files_are_json_that_names_what_is_there(project: Path):
    """The editors' files are JSON, and name modules, recipes and services that exist."""
    launch, tasks, extensions, settings, container = (
        json.loads((project / name).read_text("utf-8"))
        for name in (
            ".vscode/launch.json", ".vscode/tasks.json", ".vscode/extensions.json",
            ".vscode/settings.json", ".devcontainer/devcontainer.json",
        )
    )  # fmt: skip
    parts = [one["args"][-1] for one in launch["configurations"] if one["module"] == "vibetuner"]
    assert parts == ["frontend", "worker"]
    assert all(one["type"] == "debugpy" for one in launch["configurations"])
    recipes = {task["command"].removeprefix("uv run just ") for task in tasks["tasks"]}
    listing = run("just", "--summary", cwd=project, environment=clean_environment()).stdout
    assert recipes <= set(listing.split())
    assert "ms-python.debugpy" in extensions["recommendations"]
    assert settings["python.testing.pytestEnabled"] is True
    files = [
        (project / ".devcontainer" / name).resolve() for name in container["dockerComposeFile"]
    ]
    services = [yaml.safe_load(file.read_text("utf-8"))["services"] for file in files]
    assert container["service"] in services[1]
    assert {*container["runServices"], *services[1]["dev"]["depends_on"]} <= set(services[0])


def test_the_rules_for_agents_are_in_one_place(project: Path):
    """AGENTS.md has ten rules in fewer than 60 lines, and CLAUDE.md includes it."""
    text = (project / "AGENTS.md").read_text("utf-8")
    assert re.findall(r"(?m)^(\d+)\. ", text) == [str(number) for number in range(1, 11)]
    assert len(text.splitlines()) < 60
    assert (project / "CLAUDE.md").read_text("utf-8") == "@AGENTS.md\n"


def test_pre_commit_is_an_option(plain: Path, project: Path, tmp_path: Path):
    """The pre-commit configuration is written only on request, with the tools of `just check`."""
    render(plain, tmp_path / "p", pre_commit=True)
    text = (tmp_path / "p" / ".pre-commit-config.yaml").read_text("utf-8")
    hooks = yaml.safe_load(text)["repos"][0]["hooks"]

    assert [hook["entry"].split()[:3] for hook in hooks] == [["uv", "run", "ruff"]] * 2
    assert not (project / ".pre-commit-config.yaml").exists()


def test_no_file_of_a_fresh_project_is_ignored_by_git(project: Path):
    """No file of a new project is ignored by git.

    A user's changes to an ignored file would be lost at the next update.
    """
    environment = clean_environment(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")
    run("git", "init", "--quiet", cwd=project, environment=environment)
    names = [name for name in rendered_files(project) if not name.startswith(".git/")]

    process = subprocess.run(
        ["git", "check-ignore", *names], cwd=project, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    (project / ".git").rename(project.parent / "git")
    assert process.stdout == ""


def test_no_path_of_the_machine_is_rendered_but_where_the_runtime_is(plain: Path, project: Path):
    """Rendered files contain a path of this machine only where they name the runtime.

    A committed file must mean the same on the next machine.
    """
    expected = {
        ".copier-answers.yml": [f"_src_path: {plain}"],
        "pyproject.toml": [
            f'    "vibetuner-runtime @ file://{plain}/runtime",',
            f'    "vibetuner-runtime[embedded] @ file://{plain}/runtime",',
            f'path = "{plain}/runtime"',
        ],
        ".devcontainer/compose.yml": ["      UV_PROJECT_ENVIRONMENT: /home/vscode/venv"],
    }
    machine = (str(plain), str(project), str(ROOT), str(Path.home()) + "/", "/tmp/", "/home/")
    in_container = ("--mount=type=cache,target=", " /tmp/key")
    for name, text in rendered_files(project).items():
        found = [line for line in text.splitlines() if any(path in line for path in machine)]
        assert [
            line for line in found if not any(map(line.__contains__, in_container))
        ] == expected.get(name, []), name


def test_the_worker_is_a_service_of_its_own_in_production(project: Path):
    """In production, the worker has the web app's image and settings, and Valkey keeps tasks."""
    services = yaml.safe_load((project / "compose.prod.yml").read_text("utf-8"))["services"]

    assert services["worker"]["command"] == ["prod", "worker"]
    assert services["web"]["command"][:2] == ["prod", "frontend"]
    assert services["worker"]["env_file"] == services["web"]["env_file"] == [".env"]
    assert services["worker"]["environment"]["ENVIRONMENT"] == "production"
    health = services["worker"]["healthcheck"]["test"]
    assert health == ["CMD", "vibetuner", "worker-health", "--here"]
    assert services["worker"]["image"] == services["web"]["image"] == "my-project:latest"
    assert services["schema"]["entrypoint"] + services["schema"]["command"] == [
        "vibetuner", "db", "upgrade",
    ]  # fmt: skip
    valkey = " ".join(services["valkey"]["command"])
    assert "--appendonly yes" in valkey
    assert "--maxmemory-policy noeviction" in valkey


def test_docker_development_runs_page_and_worker_beside_real_servers(project: Path):
    """Compose runs web app and worker in development mode, beside Valkey and MongoDB."""
    services = yaml.safe_load((project / "compose.dev.yml").read_text("utf-8"))["services"]

    assert services["web"]["command"][:2] == ["dev", "frontend"]
    assert services["worker"]["command"][:2] == ["dev", "worker"]
    assert set(services) == {"web", "worker", "valkey", "mongo"}


def test_the_image_starts_vibetuner_run_as_somebody_without_rights(project: Path):
    """The image starts `vibetuner run` as a user without rights, and has git only to build."""
    builder, final = (project / "Dockerfile").read_text("utf-8").split("\nFROM ")[2:]

    assert 'ENTRYPOINT ["vibetuner", "run"]' in final
    assert "USER 10001" in final
    assert "git" in builder
    assert "git" not in final


def test_env_example_names_every_setting_with_a_line_about_it(project: Path):
    """.env.example has each setting below a line about it, and values for development."""
    from vibetuner.config import Settings

    text = (project / ".env.example").read_text("utf-8")
    values = dict(re.findall(r"(?m)^# \S.*\n([A-Z_]+)=(.*)$", text))
    assert set(values) == {name.upper() for name in Settings.model_fields}
    assert len(values) == len(re.findall(r"(?m)^[A-Z_]+=", text))
    assert values["SECRET_KEY"] == ""
    assert (values["REDIS_URL"], values["MONGODB_URL"]) == ("embedded", "embedded")


def test_the_example_settings_are_valid(project: Path):
    """The values of .env.example are valid settings."""
    from vibetuner.config import Settings
    from vibetuner.setting_files import read_env_file

    lines = read_env_file(project / ".env.example")
    settings = Settings(**{name.lower(): value for name, value in lines.items() if value})

    assert settings.environment == "development"
    assert settings.database_url is not None


def test_ci_runs_what_people_run(project: Path):
    """CI runs `just check` on every Python that the project supports."""
    workflow = yaml.safe_load((project / ".github/workflows/ci.yml").read_text("utf-8"))

    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": "uv run just check"}
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert not (project / ".python-version").exists()


def test_no_recipe_freezes_the_lock_file(project: Path):
    """No recipe uses --frozen: after an update, `uv run` must install the new runtime."""
    for name, text in rendered_files(project).items():
        if name.endswith("just") or name.startswith(".just/"):
            assert "--frozen" not in text, name


@pytest.mark.parametrize(
    "recipe",
    [
        "db",
        "dev",
        "worker-dev",
        "local-all",
        "local-all-with-worker",
        "pin-images",
        "test",
        "check",
        "format",
        "template-update",
    ],
)
def test_just_lists_the_recipe_with_a_sentence(project: Path, recipe: str):
    """`just` without arguments lists each recipe with a sentence."""
    listing = run("just", cwd=project, environment=clean_environment()).stdout

    [line] = [line for line in listing.splitlines() if line.split()[:1] == [recipe]]
    assert re.search(r"# [A-Z].*\.$", line)


def test_a_recipe_of_the_users_wins_and_arguments_are_passed_on_whole(project: Path):
    """A recipe in the user's justfile replaces the template's, and gets its arguments unsplit."""
    justfile = project / "justfile"
    original = justfile.read_text("utf-8")
    justfile.write_text(
        f"{original}\n[positional-arguments]\ntest *args:\n    @printf '<%s>' \"$@\"\n"
    )
    try:
        command = ("just", "test", "-k", "one or two")
        output = run(*command, cwd=project, environment=clean_environment()).stdout
        default = run("just", cwd=project, environment=clean_environment()).stdout
    finally:
        justfile.write_text(original)
    assert output == "<-k><one or two>"
    assert default.startswith("Available recipes:")


def test_our_mypy_reads_libraries_as_a_projects_does(project: Path):
    """Our options of mypy that count for libraries are a project's, which can use our cache."""
    ours, theirs = (
        tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
        for folder in (ROOT, project)
    )
    for own in ("files", "mypy_path", "overrides", "python_version"):
        ours.pop(own, None)
        theirs.pop(own, None)

    assert ours == theirs
