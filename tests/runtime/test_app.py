"""VibetunerApp: what a project declares."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import FrozenInstanceError

import pytest
from fastapi import APIRouter, FastAPI

from vibetuner import VibetunerApp


def test_a_declaration_is_not_changed_afterwards():
    """Neither its fields nor the lists in them: who holds it can trust it."""
    tasks: list[object] = [print]
    app = VibetunerApp(tasks=tasks, routes=[APIRouter()])

    tasks.append(len)

    assert app.tasks == (print,)
    with pytest.raises(FrozenInstanceError):
        app.tasks = ()  # type: ignore[misc]


def test_everything_is_optional_and_named():
    """An empty declaration is a project too; places have no meaning."""
    app = VibetunerApp()

    assert (app.tasks, app.routes, app.models, app.sql_models) == ((), (), (), ())
    assert app.worker_lifespan is None
    assert app.frontend_lifespan is None
    with pytest.raises(TypeError):
        VibetunerApp([])  # type: ignore[misc]


def test_a_lifespan_is_a_function_that_makes_one():
    """The function is kept, and called when the process starts."""

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
    """``tasks=my_task`` is the mistake that everybody makes once."""
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
    """At import, not at the first visitor's request."""
    with pytest.raises(TypeError, match=words):
        VibetunerApp(**{name: value})


def test_a_declared_dict_is_not_changed_afterwards():
    """As with the lists."""
    filters = {"shout": str.upper}
    app = VibetunerApp(template_filters=filters)

    filters["whisper"] = str.lower

    assert dict(app.template_filters) == {"shout": str.upper}


@pytest.mark.parametrize("name", ["on_error", "on_failure"])
def test_a_hook_is_a_function(name: str):
    """A hook that can't be called is refused at the declaration."""
    with pytest.raises(TypeError, match=f"{name}= takes a function, not 'sentry'"):
        VibetunerApp(**{name: "sentry"})  # type: ignore[arg-type]
