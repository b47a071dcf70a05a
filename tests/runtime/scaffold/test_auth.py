"""The needs of `vibetuner new auth`, and its refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.projects import write, write_project
from vibetuner.config import Settings
from vibetuner.errors import CommandError, NotConfigured
from vibetuner.scaffold.auth import check_auth, check_databases, draft_auth, draft_of_auth
from vibetuner.scaffold.draft import Place, list_templates
from vibetuner.scaffold.plan import plan_new

ROOT = Path(__file__).parents[3]
BASE = "{% block content %}{% endblock %}"
ACCOUNT = """
    from sqlmodel import SQLModel

    class Account(SQLModel, table=True):
        name: str
"""
TASK = """
    @robust_task()
    async def send_sign_in_link(): ...
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a project with a base page."""
    root = write_project(tmp_path, {"templates/base.html": BASE})
    return Place(root, "shop")


def test_a_project_without_limits_gets_them_and_their_table(place: Place):
    """A project without limits.py gets it with its table; one with the example uses its own."""
    check_auth(place)
    alone = draft_auth(place)
    write(place.root / "src/shop/limits.py", example_limits().replace("{{ package_name }}", "shop"))
    beside = draft_auth(place)

    assert alone.files.keys() - beside.files.keys() == {"src/shop/limits.py"}
    assert [entry.name for entry in alone.entries if entry not in beside.entries] == ["Quota"]


def test_both_limits_are_the_same_code():
    """The functions of the generated limits equal those of the example."""
    ours, example = list_templates()["auth_limits.py.jinja"], example_limits()
    for part in ("async def use", "def client_of", "def mailbox_of", "async def _count"):
        assert function(part, ours) == function(part, example)


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("people.py", ACCOUNT, r"src/shop/people.py:3 has the model Account already"),
        ("mails.py", TASK, r"src/shop/mails.py:2 has the task send_sign_in_link already"),
        ("auth/__init__.py", "", r"src/shop/auth/ is a package, which would hide src/shop/auth.py"),
        ("templates/base.html", "<main></main>", r"base.html with a block content"),
        ("limits.py", "class Limit: ...\n", r"src/shop/limits.py has no client_of"),
    ],
)
def test_what_stands_in_the_way_is_named(place: Place, file: str, text: str, problem: str):
    """Each obstacle is named, and nothing is overwritten."""
    write(place.root / "src/shop" / file, text)
    with pytest.raises(CommandError, match=problem):
        (check_auth(place), plan_new(place, draft_auth(place)))


@pytest.mark.parametrize("missing", ["mongodb_url", "database_url"])
def test_people_and_sessions_need_their_databases(place: Place, missing: str):
    """Sign-in needs both databases, unless the project has no .env yet.

    Such a project gets both with its first start.
    """
    urls = {"mongodb_url": "embedded", "database_url": "sqlite+aiosqlite:///app.db"}
    check_databases(place, Settings(**urls | {missing: None}))
    write(place.root / ".env", "")
    check_databases(place, Settings(**urls))
    with pytest.raises(
        NotConfigured, match=f"{missing.upper()} is empty. Add to .env:  {missing.upper()}="
    ):
        check_databases(place, Settings(**urls | {missing: None}))


def test_sign_in_that_is_not_there_can_not_be_removed(place: Place):
    """Sign-in can be removed only if it exists, and then with all of its files."""
    with pytest.raises(CommandError, match="There is no sign-in"):
        draft_of_auth(place)

    drafted = draft_auth(place)
    for path, text in drafted.files.items():
        write(place.root / path, text)
    assert draft_of_auth(place) == drafted


def test_passwords_need_their_library(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Sign-in needs argon2-cffi, and accepts other models of the project."""
    write(place.root / "src/shop/people.py", ACCOUNT.replace("Account", "Person"))
    check_auth(place)

    monkeypatch.setitem(sys.modules, "argon2", None)
    with pytest.raises(CommandError, match="argon2-cffi, which is not installed. Run:  uv add"):
        check_auth(place)


def example_limits() -> str:
    path = ROOT / "template" / "src" / "{{ package_name }}" / "limits.py.jinja"
    return path.read_text(encoding="utf-8")


def function(start: str, text: str) -> str:
    return text[text.index(start) :].partition("\n\n\n")[0]
