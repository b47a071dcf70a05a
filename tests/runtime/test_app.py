"""VibetunerApp, the declaration of a project."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError

import pytest
from fastapi import APIRouter, FastAPI

from vibetuner import VibetunerApp


def test_a_declaration_is_not_changed_afterwards():
    """A declaration can't be changed, and doesn't change with the list that was passed."""
    tasks: list[object] = [print]
    app = VibetunerApp(tasks=tasks, routes=[APIRouter()])

    tasks.append(len)

    assert app.tasks == (print,)
    with pytest.raises(FrozenInstanceError):
        app.tasks = ()  # type: ignore[misc]


def test_everything_is_optional_and_named():
    """Every declaration is optional, and is passed by keyword."""
    app = VibetunerApp()

    assert (app.tasks, app.routes, app.models, app.sql_models) == ((), (), (), ())
    assert app.worker_lifespan is None
    assert app.frontend_lifespan is None
    with pytest.raises(TypeError):
        VibetunerApp([])  # type: ignore[misc]


def test_a_lifespan_is_a_function_that_makes_one():
    """A lifespan is declared as a function, and the object that it makes is refused."""

    @asynccontextmanager
    async def lifespan():
        yield

    assert VibetunerApp(worker_lifespan=lifespan).worker_lifespan is lifespan
    with pytest.raises(TypeError, match=r"worker_lifespan= takes a function decorated with"):
        VibetunerApp(worker_lifespan=lifespan())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tasks", "routes", "models", "sql_models"])
@pytest.mark.parametrize(
    "value", ["text", print, None, {1}], ids=["text", "function", "None", "set"]
)
def test_what_is_no_list_is_refused_by_name(name: str, value: object):
    """A declaration that is no list, such as ``tasks=my_task``, is refused by its name."""
    with pytest.raises(TypeError, match=f"{name}= takes a list, not"):
        VibetunerApp(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("headers", [], "headers= takes a dict"),
        ("template_filters", {"shout": "loud"}, "template_filters= takes functions"),
        ("mounts", {"admin": print}, "mounts= takes paths such as '/admin', not 'admin'"),
        ("middleware", [print], r"middleware= takes Middleware\(...\) objects"),
        ("trusted_origins", ["shop.example"], "trusted_origins= takes"),
        ("trusted_origins", ["*", "https://a.example", "b"], "trusted_origins= takes .* not 'b'"),
        ("trusted_origins", [5], "trusted_origins= takes '.' or 'https://host', not 5"),
        ("openapi", "yes", "openapi= takes True or False"),
        ("openapi", [], r"openapi= takes True or False, not \[\]"),
        ("routes", [print], "routes= takes APIRouter objects, not <built-in"),
        ("routes", [FastAPI()], "Apps go into mounts="),
        ("mounts", {5: print}, "mounts= takes paths such as '/admin', not 5"),
        ("exception_handlers", {"404": print}, "takes 404 or SomeError as a key, not '404'"),
        ("headers", {5: "x"}, "headers= takes names such as 'Referrer-Policy', not 5"),
        ("headers", {"X\n": "x"}, "headers= takes names"),
        ("headers", {"Max-Age": 5}, "headers= takes a line of ASCII text for 'Max-Age', not 5"),
        ("headers", {"Max-Age": "5\nX: y"}, "headers= takes a line of ASCII text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(name: str, value: object, words: str):
    """A declared value of the wrong kind is refused by its name, when tune.py is imported."""
    with pytest.raises(TypeError, match=words):
        VibetunerApp(**{name: value})


def test_a_declared_dict_is_not_changed_afterwards():
    """A declared dict doesn't change with the dict that was passed."""
    filters = {"shout": str.upper}
    app = VibetunerApp(template_filters=filters)

    filters["whisper"] = str.lower

    assert dict(app.template_filters) == {"shout": str.upper}


@pytest.mark.parametrize("name", ["on_error", "on_failure"])
def test_a_hook_is_a_function(name: str):
    """A hook that can't be called is refused at the declaration."""
    with pytest.raises(TypeError, match=f"{name}= takes a function, not 'sentry'"):
        VibetunerApp(**{name: "sentry"})  # type: ignore[arg-type]
