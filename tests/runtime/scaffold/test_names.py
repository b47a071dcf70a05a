"""Names as a person means them, and the ones that are suggested instead."""

from __future__ import annotations

import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibetuner.errors import CommandError
from vibetuner.scaffold.names import Name, parse_name, plural, snake

LONG = "send_the_very_long_report_of_all_the"


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        ("reports", "reports"),
        ("Reports", "reports"),
        ("send-report", "send_report"),
        ("send report", "send_report"),
        ("SendReport", "send_report"),
        ("sendReport", "send_report"),
        ("HTTPPing", "http_ping"),
        ("reports_task", "reports"),
        ("ReportsTask", "reports"),
        ("reports.py", "reports"),
        ("billing/reports", "billing/reports"),
        ("billing.reports", "billing/reports"),
        ("Billing/SendReports", "billing/send_reports"),
        ("tasks/reports", "reports"),
        ("src/shop/tasks/reports.py", "reports"),
        ("src/shop/tasks/billing/reports.py", "billing/reports"),
        ("  reports  ", "reports"),
        ("reports/", "reports"),
        ("_reports_", "reports"),
        ("reports2", "reports2"),
        ("frontend/reports", "reports"),
    ],
)
def test_a_name_is_taken_as_it_is_meant(typed: str, path: str):
    """A name is read in any spelling, with or without its folder and its suffix."""
    assert parse_name(typed, "task").path == path


@pytest.mark.parametrize(
    ("typed", "problem", "suggestion"),
    [
        ("", "The name is empty", "send_report"),
        ("  ", "The name is empty", "send_report"),
        ("/", "would leave the folder", "send_report"),
        ("class", "a keyword of Python", "class_job"),
        ("match", "a keyword of Python", "match_job"),
        ("print", "a builtin of Python", "print_job"),
        ("json", "a module of Python's library", "json_job"),
        ("email/digest", "a module of Python's library", "email_job/digest"),
        ("httpx2", "a package here", "httpx2_job"),
        ("worker", "a meaning in the project", "worker_job"),
        ("task", "a meaning in the project", "task_job"),
        ("l", "a meaning in the project", "l_job"),
        ("../secrets", "would leave the folder", "secrets_job"),
        ("../reports", "would leave the folder", "reports"),
        ("/etc/reports", "would leave the folder", "etc/reports"),
        ("~/reports", "would leave the folder", "reports"),
        ("a\\b", "would leave the folder", "a/b"),
        ("3d_report", "begins with a digit", "d_report_3"),
        ("42", "begins with a digit", "send_report"),
        ("Ärger", "letters of a to z", "arger"),
        ("Größe", "letters of a to z", "grosse"),
        ("send!report", "letters of a to z", "send_report"),
        ("日本", "letters of a to z", "send_report"),
        ("a" * 41, "longer than 40", "a" * 40),
        (
            "send_the_very_long_report_of_all_the_things",
            "longer than 40",
            "send_the_very_long_report_of_all_the",
        ),
        ("a/b/c/d", "too deep", "b/c/d"),
    ],
)
def test_a_name_that_can_not_be_is_refused_with_one_that_can(
    typed: str, problem: str, suggestion: str
):
    """A name that can't be is refused in one line, with a name that can be."""
    with pytest.raises(CommandError, match=problem) as refused:
        parse_name(typed, "task", is_taken={"httpx2"}.__contains__)

    message = str(refused.value)
    assert "\n" not in message
    offered = message.partition("Try:  ")[2]
    assert offered == suggestion
    assert parse_name(offered, "task").path == offered


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [
        ("billing/send_the_report", "send_the_report"),
        ("send_the_very_long_report", "send_the_very_long"),
        ("a" * 30, "a" * 20),
    ],
)
def test_a_name_that_makes_lines_too_long_is_refused(typed: str, suggestion: str):
    """A name that makes lines too long, with the project's own name, is refused."""
    with pytest.raises(CommandError, match=f"use at most 20 characters. Try:  {suggestion}$"):
        parse_name(typed, "task", room=20)


@given(st.text(max_size=60), st.sampled_from(["task", "route", "model"]))
def test_every_text_is_a_name_or_refused_with_one(text: str, kind: str):
    """Any text is a name that can be imported, or is refused in one line with such a name."""
    try:
        name = parse_name(text, kind)
    except CommandError as refused:
        message = str(refused)
        name = parse_name(message.rpartition("Try:  ")[2], kind)
        assert name.path == message.rpartition("Try:  ")[2]
        assert message.isprintable()
    for part in (*name.folders, name.leaf):
        assert part.isidentifier()
        assert part.isascii()
        assert part == part.lower()
        assert len(part) <= 40
        assert not keyword.iskeyword(part)
    assert len(name.folders) <= 2


@given(st.from_regex(r"[a-z][a-z0-9]{0,8}(_[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True))
def test_every_spelling_of_a_name_means_the_same(words: str):
    """A name with dashes, spaces or capitals equals that with underscores."""
    capitals = "".join(word.capitalize() for word in words.split("_"))

    assert snake(words.replace("_", "-")) == snake(words.replace("_", " ")) == words
    if all(len(word) > 1 for word in words.split("_")):
        assert snake(capitals) == words
    assert Name((), words).class_name == capitals


@pytest.mark.parametrize("word", ["order", "box", "city", "tax", "dish", "key"])
def test_more_than_one_is_told_apart_from_one(word: str):
    """A plural differs from its singular, and is its own plural."""
    assert plural(word) != word
    assert plural(plural(word)) == plural(word)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        *(("box", "boxes"), ("dish", "dishes"), ("batch", "batches"), ("class", "classes")),
        *(("city", "cities"), ("key", "keys"), ("order", "orders"), ("news", "news")),
    ],
)
def test_a_plural_is_the_regular_one(word: str, words: str):
    """A plural is regular: a sibilant takes -es, and a word that ends with -s stays."""
    assert plural(word) == words


@pytest.mark.parametrize("typed", ["health", "debug"])
@pytest.mark.parametrize(("kind", "other"), [("route", "page"), ("task", "job")])
def test_a_page_is_not_at_an_address_of_the_runtime(typed: str, kind: str, other: str):
    """A route, batch or progress page at the address of a page of the runtime is refused."""
    with pytest.raises(CommandError, match=f"in the project already. Try:  {typed}_{other}$"):
        parse_name(typed, kind)
    assert parse_name(typed, "model").leaf == typed


@pytest.mark.parametrize("typed", ["Field", "Document", "Database", "AsyncEngine"])
def test_a_model_is_not_called_like_a_class_that_its_files_import(typed: str):
    """A model is not named after a class that its files import."""
    with pytest.raises(
        CommandError, match=r"has a meaning in the project already\. Try:  \w+_record"
    ):
        parse_name(typed, "model")

    assert parse_name(typed, "route").leaf


def test_a_table_is_not_named_like_those_of_sqlite_itself():
    """A model whose table would be named ``sqlite_...`` is refused: SQLite makes no such table."""
    with pytest.raises(CommandError, match=r"begins as SQLite's own tables\. Try:  file_record$"):
        parse_name("sqlite_file", "model")
    assert parse_name("sqlite_file", "task").leaf == "sqlite_file"
