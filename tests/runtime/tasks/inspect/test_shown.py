"""Values, arguments and damaged records on pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from streaq.types import StreaqCancelled

from vibetuner.errors import TaskError
from vibetuner.tasks.inspect.actions import check_arguments
from vibetuner.tasks.inspect.detail import _result_row
from vibetuner.tasks.inspect.model import State
from vibetuner.tasks.inspect.shown import name_arguments, shown
from vibetuner.tasks.inspect.why import _group_of


class Unsigned:
    """A function whose signature can't be read."""

    __signature__ = "none"

    def __call__(self) -> None: ...


def counted(first: int, *rest: int) -> None: ...


def named(here: int, /, there: int = 0, *, alone: int = 0, **more: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "names"),
    [
        (named, (1,), ["here"]),
        (named, (1, 2, 3), ["here", "there", "argument 3"]),
        (counted, (1, 2, 3), ["first", "rest 1", "rest 2"]),
        (Unsigned(), (1,), ["argument 1"]),
        (None, (1, 2), ["argument 1", "argument 2"]),
    ],
)
def test_an_argument_without_a_name_has_its_position(function: Any, args: Any, names: list[str]):
    """An argument without a parameter is named by its position, as for an unknown function."""
    assert list(name_arguments(function, args, {})) == names


def test_a_list_is_shown_without_secrets():
    """Secrets are masked in nested values, too; an empty password is no secret."""
    value = [{"token": "x", "password": ""}, "redis://ann:x@cache", 1.5]
    assert shown(value) == '[{"token": "•••", "password": ""}, "redis://***@cache", 1.5]'


@pytest.mark.parametrize(
    ("outcome", "state", "error"),
    [
        ({"s": True, "r": 1}, State.DONE, ""),
        ({"s": False, "r": ValueError("no")}, State.FAILED, "ValueError: no"),
        ({"s": False, "r": StreaqCancelled("no")}, State.ABORTED, "StreaqCancelled: no"),
        ({"s": True}, State.UNREADABLE, "Its result can't be read"),
    ],
)
def test_a_result_that_the_journal_does_not_have_is_shown(
    outcome: dict[str, Any], state: State, error: str
):
    """A task without a journal entry, as from streaq's worker, is shown by its stored result."""
    row = _result_row("1", {"f": "mail", "t": 2, "ft": 1000, **outcome})
    assert (row.state, row.error[: len(error)]) == (state, error)
    if "r" in outcome:
        assert (row.name, row.tries) == ("mail", 2)
        assert row.finished == datetime.fromtimestamp(1, UTC)


@pytest.mark.parametrize("stored", [None, "", "no json", "[1, 2]", "5"])
def test_a_place_in_line_that_cannot_be_read_is_none(stored: Any):
    """A stored value that is no place in a line is read as an empty one."""
    assert _group_of(stored) == ""


class Bare:
    """A type without a schema in pydantic."""


async def takes(item: Bare, *items: int, **more: int) -> None: ...


async def missing(day: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def test_arguments_that_cannot_be_checked_are_accepted():
    """Arguments of a type without a schema, or of an unknown type, are passed on unchecked.

    This also holds for arguments that `*args` and `**kwargs` take.
    """
    item = Bare()
    assert check_arguments(takes, "takes", [item, "1"], {"b": "2"}) == ([item, "1"], {"b": "2"})
    assert check_arguments(missing, "missing", ["today"], {}) == (["today"], {})
    with pytest.raises(TaskError, match=r"^takes\(item: 'Bare', .*missing a required argument"):
        check_arguments(takes, "takes", [], {})
