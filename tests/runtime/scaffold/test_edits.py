"""Edits of tune.py: one entry is added or removed, and every other byte stays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.projects import write_project
from vibetuner.errors import CommandError
from vibetuner.scaffold.changes import apply_changes
from vibetuner.scaffold.draft import Draft, Place
from vibetuner.scaffold.edits import Entry, add_entry, remove_entry
from vibetuner.scaffold.plan import Plan, plan_new, plan_removal

REPORTS = Entry("tasks", "shop.tasks.reports", "reports", ("reports", "reports_task"))
SIGNUP = Entry("tasks", "shop.tasks.signup", "signup", ("signup", "signup_task"))

CASES = {
    "an empty project": (
        """
        from vibetuner import VibetunerApp

        app = VibetunerApp()
        """,
        """
        from vibetuner import VibetunerApp

        from shop.tasks.reports import reports

        app = VibetunerApp(tasks=[reports])
        """,
    ),
    "an empty list": (
        """
        from vibetuner import VibetunerApp

        app = VibetunerApp(tasks=[])  # none so far
        """,
        """
        from vibetuner import VibetunerApp

        from shop.tasks.reports import reports

        app = VibetunerApp(tasks=[reports])  # none so far
        """,
    ),
    "between two imports, with a comment that stays where it is": (
        """
        from vibetuner import VibetunerApp

        from shop.tasks.emails import send  # to people

        # every night
        from shop.tasks.shelf import clean

        app = VibetunerApp(
            tasks=[send, clean],  # in this order
            routes=[],
        )
        """,
        """
        from vibetuner import VibetunerApp

        from shop.tasks.emails import send  # to people
        from shop.tasks.reports import reports

        # every night
        from shop.tasks.shelf import clean

        app = VibetunerApp(
            tasks=[send, clean, reports],  # in this order
            routes=[],
        )
        """,
    ),
    "one a line, with comments": (
        """
        from vibetuner import VibetunerApp
        from shop.tasks.emails import send

        app = VibetunerApp(
            tasks=[
                # mail
                send,  # now
            ],
        )
        """,
        """
        from vibetuner import VibetunerApp
        from shop.tasks.emails import send
        from shop.tasks.reports import reports

        app = VibetunerApp(
            tasks=[
                # mail
                send,  # now
                reports,
            ],
        )
        """,
    ),
    "no comma at the end": (
        """
        from vibetuner import VibetunerApp
        from shop.tasks.emails import send

        app = VibetunerApp(tasks=[
          send
        ])
        """,
        """
        from vibetuner import VibetunerApp
        from shop.tasks.emails import send
        from shop.tasks.reports import reports

        app = VibetunerApp(tasks=[
          send,
          reports,
        ])
        """,
    ),
    "other arguments, one a line": (
        """
        import vibetuner

        app = vibetuner.VibetunerApp(
            # pages
            routes=[],
        )
        """,
        """
        import vibetuner

        from shop.tasks.reports import reports

        app = vibetuner.VibetunerApp(
            # pages
            tasks=[reports],
            routes=[],
        )
        """,
    ),
    "a line that gets too long": (
        """
        from vibetuner import VibetunerApp

        from shop import another_router, some_router

        app = VibetunerApp(routes=[some_router, another_router], models=[], sql_models=[])
        """,
        """
        from vibetuner import VibetunerApp

        from shop import another_router, some_router
        from shop.tasks.reports import reports

        app = VibetunerApp(
            tasks=[reports], routes=[some_router, another_router], models=[], sql_models=[]
        )
        """,
    ),
    "a list that gets too long": (
        """
        from vibetuner import VibetunerApp

        from shop.tasks import jobs

        app = VibetunerApp(
            tasks=[jobs.the_first_of_them, jobs.the_second_of_them, jobs.the_third_one],
        )
        """,
        """
        from vibetuner import VibetunerApp

        from shop.tasks import jobs
        from shop.tasks.reports import reports

        app = VibetunerApp(
            tasks=[
                jobs.the_first_of_them,
                jobs.the_second_of_them,
                jobs.the_third_one,
                reports,
            ],
        )
        """,
    ),
    "an import from the same module": (
        """
        from vibetuner import VibetunerApp

        from shop.tasks.reports import LIMIT, send

        app = VibetunerApp(tasks=[send])
        """,
        """
        from vibetuner import VibetunerApp

        from shop.tasks.reports import LIMIT, reports, send

        app = VibetunerApp(tasks=[send, reports])
        """,
    ),
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a project whose ruff has no settings."""
    return Place(write_project(tmp_path / "project"), "shop")


def edit(place: Place, text: str, plan: Callable[[Place, Draft], Plan]) -> str:
    """Return tune.py after a plan for the entry of REPORTS; the plan changes nothing else."""
    place.tune.write_bytes(text.encode())
    module = f"{place.source}/reports.txt"
    draft = Draft(files={module: ""}, entries=(REPORTS,))
    apply_changes(plan(place, draft).changes)
    return place.tune.read_bytes().decode()


@pytest.mark.process
@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_an_entry_is_added_where_it_belongs(place: Place, before: str, after: str):
    """An entry's import is sorted in, and its element appended; a second edit changes nothing."""
    assert edit(place, clean(before), plan_new) == clean(after)
    assert edit(place, clean(after), plan_new) == clean(after)


@pytest.mark.process
@pytest.mark.parametrize(
    ("before", "after"),
    [case for name, case in CASES.items() if "long" not in name and "comma" not in name],
    ids=[name for name in CASES if "long" not in name and "comma" not in name],
)
def test_taking_out_undoes_adding(place: Place, before: str, after: str):
    """The removal of an entry restores the file, unless a line was too long."""
    assert edit(place, clean(after), plan_removal) == clean(before)


@pytest.mark.process
def test_a_file_that_is_not_formatted_keeps_its_form(place: Place):
    """A file that is not formatted keeps its form; only the entry's two lines change."""
    before = (
        "from vibetuner import VibetunerApp\nx = {  'a':1 }\napp = VibetunerApp( tasks = [ a ] )\n"
    )
    after = edit(place, before, plan_new)

    assert after == before.replace("[ a ]", "[ a, reports ]").replace(
        "\nx", "\nfrom shop.tasks.reports import reports\nx"
    )
    assert edit(place, after, plan_removal) == before


def test_without_ruff_the_edit_is_as_it_was_made(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Without ruff, the edit is valid and not formatted."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(place.root / "python"))
    edited = edit(place, clean(CASES["an import from the same module"][0]), plan_new)

    assert "from shop.tasks.reports import LIMIT, send\nfrom shop.tasks.reports import r" in edited
    assert "tasks=[send, reports]" in edited


def test_a_name_that_is_in_use_is_imported_as_another():
    """A name that is in use is imported under another name."""
    before = clean("""
        from vibetuner import VibetunerApp

        from shop.routes import signup

        app = VibetunerApp(routes=[signup.router])
    """)
    after = add_entry(before, SIGNUP)

    assert "from shop.tasks.signup import signup as signup_task\n" in after
    assert "VibetunerApp(tasks=[signup_task], routes=[signup.router])" in after
    assert remove_entry(after, SIGNUP) == before


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["", "NEWLINE"])
def test_line_ends_marks_and_characters_stay(newline: str, mark: str, end: str):
    """Line ends, a byte order mark and special characters stay as they were."""
    lines = [
        "from vibetuner import VibetunerApp",
        "",
        "x = 'ü\x0c', '\u2028'",
        "app = VibetunerApp()",
    ]
    text = mark + newline.join(lines) + end.replace("NEWLINE", newline)
    edited = add_entry(text, REPORTS)

    added = f"from shop.tasks.reports import reports{newline}"
    assert edited.replace("tasks=[reports]", "").replace(added, "", 1) == text
    assert edited.count("\n") == edited.count(newline)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("app = VibetunerApp(tasks=TASKS)", "tasks= is not written as a list"),
        ("app = VibetunerApp(tasks=[*TASKS] + [a])", "tasks= is not written as a list"),
        ("app = VibetunerApp(**OPTIONS)", "takes its arguments from elsewhere"),
        ("app = make_app()", "it has no VibetunerApp"),
        ("a = VibetunerApp()\napp = VibetunerApp()", "it has 2 VibetunerApp"),
        ("app = VibetunerApp(tasks=[(a)])", "its form is unexpected"),
        ("app = VibetunerApp(tasks=[\n    # none yet\n])", "nothing but space or a comment"),
        ("app = VibetunerApp(", "line 2"),
    ],
)
def test_what_can_not_be_edited_safely_is_left_with_the_lines_to_add(line: str, reason: str):
    """A file that can't be edited safely is refused in one line with the lines to add."""
    with pytest.raises(CommandError, match=reason) as refused:
        add_entry(f"from vibetuner import VibetunerApp\n{line}\n", REPORTS)

    assert "from shop.tasks.reports import reports" in str(refused.value)
    assert "tasks=[..., reports]" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_without_an_import_is_left_alone():
    """A file without an import is refused, as the place of the first one is unknown."""
    with pytest.raises(CommandError, match="it has no import after which to add one"):
        add_entry("app = VibetunerApp()\n", REPORTS)


@pytest.mark.parametrize(
    ("taken", "local"),
    [
        ("def reports(): ...", "reports_task"),
        ("class reports: ...", "reports_task"),
        ("", "reports"),
    ],
)
def test_a_name_that_is_defined_is_in_use(taken: str, local: str):
    """A name that a function or a class of the file has is in use."""
    text = f"from vibetuner import VibetunerApp\n{taken}\napp = VibetunerApp()\n"

    assert f"tasks=[{local}]" in add_entry(text, REPORTS)


TAKEN_OUT = {
    "it isn't there": (
        "from vibetuner import VibetunerApp\napp = VibetunerApp()\n",
        "from vibetuner import VibetunerApp\napp = VibetunerApp()\n",
    ),
    "another import of the same module stays": (
        "from shop.tasks.reports import LIMIT\n"
        "from shop.tasks.reports import reports\n"
        "app = VibetunerApp(tasks=[reports])\n",
        "from shop.tasks.reports import LIMIT\napp = VibetunerApp()\n",
    ),
    "the list goes with its last element": (
        "from shop.tasks.reports import reports\n"
        "app = VibetunerApp(\n    models=[],\n    tasks=[\n        reports,\n    ],\n)\n",
        "app = VibetunerApp(\n    models=[],\n)\n",
    ),
    "the list goes from between two": (
        "from shop.tasks.reports import reports\n"
        "app = VibetunerApp(models=[], tasks=[reports], routes=[])\n",
        "app = VibetunerApp(models=[], routes=[])\n",
    ),
    "a list with a comment stays": (
        "from shop.tasks.reports import reports\napp = VibetunerApp(tasks=[reports])  # all\n",
        "app = VibetunerApp(tasks=[])  # all\n",
    ),
    "an import with its own conditions stays": (
        "try:\n    from shop.tasks.reports import reports\nexcept ImportError: ...\n"
        "app = VibetunerApp(tasks=[a, reports])\n",
        "try:\n    from shop.tasks.reports import reports\nexcept ImportError: ...\n"
        "app = VibetunerApp(tasks=[a])\n",
    ),
}


@pytest.mark.parametrize(("before", "after"), TAKEN_OUT.values(), ids=TAKEN_OUT)
def test_only_the_entry_is_taken_out(before: str, after: str):
    """Only the entry is removed, whatever is around it."""
    assert remove_entry(before, REPORTS) == after


@pytest.mark.parametrize(
    ("imported", "listed", "reason"),
    [
        ("reports, LIMIT  # ours", "reports", "the import of reports has a comment"),
        ("reports", "", "its form is unexpected"),
    ],
)
def test_what_can_not_be_taken_out_safely_is_left_with_the_parts_to_take_out(
    imported: str, listed: str, reason: str
):
    """An entry that can't be removed safely is refused with the parts to remove."""
    text = f"from shop.tasks.reports import {imported}\napp = VibetunerApp(tasks=[{listed}])\n"
    with pytest.raises(CommandError, match=f"{reason}. Remove by hand:  from shop.tasks.rep"):
        remove_entry(text, REPORTS)


names = st.from_regex(r"[a-z][a-z]{0,11}", fullmatch=True).map(lambda name: f"t_{name}")


@given(st.lists(names, max_size=6, unique=True), names.map(lambda name: f"{name}_new"))
def test_whatever_is_listed_the_edit_can_be_undone(listed: list[str], new: str):
    """An edit adds one import and one element to any list, and its removal restores the bytes."""
    imports = "".join(f"from shop.tasks.{name} import {name}\n" for name in listed)
    tasks = f"tasks=[{', '.join(listed)}]" if listed else ""
    text = f"from vibetuner import VibetunerApp\n{imports}\napp = VibetunerApp({tasks})\n"
    entry = Entry("tasks", f"shop.tasks.{new}", new, (new, f"{new}_task"))
    edited = add_entry(text, entry)

    assert f"from shop.tasks.{new} import {new}\n" in edited
    assert edited.count("\n") == text.count("\n") + 1
    assert remove_entry(edited, entry) == text


def clean(text: str) -> str:
    return dedent(text.removeprefix("\n"))
