"""HTML from the project's templates."""

from __future__ import annotations

import os

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from jinja2 import TemplateNotFound, UndefinedError
from starlette.testclient import TestClient

from tests.projects import write
from vibetuner.config import Settings, using_settings
from vibetuner.frontend.templates import render, render_fragment

PAGE = """
    <title>{{ project.name }} {{ settings_debug }}</title>
    {{ htmx_scripts() }}
    <link rel=stylesheet href="{{ static('app.css') }}">
    <a href="{{ url_for('page', name='x') }}">{{ greeting }} {{ request.url.path }}</a>
"""

router = APIRouter()


@router.get("/pages/{name}", name="page")
async def page(request: Request, name: str) -> HTMLResponse:
    return render(request, f"{name}.html", {"greeting": "<hello>"}, status_code=203)


@pytest.fixture
def client(fresh: None) -> TestClient:
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


def test_a_page_knows_its_project_its_request_and_its_files(stand_in, client: TestClient):
    """A page can use its project, its request, htmx and static files.

    A static file's link changes with the version, so that no browser keeps an old one.
    """
    stand_in({"templates/page.html": PAGE})

    answer = client.get("/pages/page")

    assert answer.status_code == 203
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Corner Shop False</title>" in answer.text
    assert 'src="/_vibetuner/htmx.min.js"' in answer.text
    assert 'src="/_vibetuner/htmx-sse.min.js"' in answer.text
    assert 'src="/_vibetuner/htmx-sse-resume.js"' in answer.text
    assert 'src="/_vibetuner/submit-once.js"' in answer.text
    assert 'href="/static/app.css?v=1.2.3"' in answer.text
    assert 'href="http://testserver/pages/x"' in answer.text
    assert "/pages/page</a>" in answer.text


def test_what_comes_from_outside_is_escaped(stand_in, client: TestClient):
    """Each template escapes its values, whatever its name ends with."""
    stand_in({"templates/page.html": PAGE, "templates/row.txt": "{{ name }}"})

    assert "&lt;hello&gt;" in client.get("/pages/page").text
    assert render_fragment("row.txt", name="<script>") == "&lt;script&gt;"


def test_a_task_renders_without_a_request(stand_in):
    """A fragment is rendered without a request, and a template that needs one raises an error."""
    stand_in({"templates/row.html": "<p>{{ n }}</p>", "templates/page.html": PAGE})

    assert render_fragment("row.html", n=7) == "<p>7</p>"
    with pytest.raises(UndefinedError, match="url_for"):
        render_fragment("page.html", greeting="hello")


def test_a_name_that_is_not_given_is_an_error(stand_in):
    """A name that a template uses and nobody gave raises UndefinedError."""
    stand_in({"templates/row.html": "{{ nobody_gave_this }}"})

    with pytest.raises(UndefinedError, match="nobody_gave_this"):
        render_fragment("row.html")


@pytest.mark.parametrize("name", ["nothing.html", "../tune.py", "/etc/passwd"])
def test_a_template_that_is_not_there_is_named(stand_in, name: str):
    """A template that is missing, or outside the folder, raises TemplateNotFound."""
    stand_in()

    with pytest.raises(TemplateNotFound, match=name):
        render_fragment(name)


@pytest.mark.parametrize("debug", [False, True])
def test_a_changed_template_is_read_anew_while_debugging(stand_in, debug: bool):
    """A changed template is read again with DEBUG; in production, templates are read once."""
    root = stand_in({"templates/row.html": "before"})
    with using_settings(Settings(debug=debug)):
        assert render_fragment("row.html") == "before"
        template = root / "src" / "shop" / "templates" / "row.html"
        write(template, "after")
        os.utime(template, (0, 0))  # a clock may be too coarse to tell the two apart

        seen = render_fragment("row.html")

    assert seen == ("after" if debug else "before")


@pytest.mark.parametrize(("replaces", "leaves"), [(None, True), ("#card", False)])
def test_the_end_of_a_task_removes_the_button_to_cancel_it(
    stand_in, replaces: str | None, leaves: bool
):
    """The end of a task removes the button that cancels it.

    A page that replaces the whole bar needs no such event.
    """
    bar = '{% from "vibetuner/progress.html" import progress_bar %}'
    bar += '{{ progress_bar("/events", cancel="/cancel", replaces=replaces) }}'
    stand_in({"templates/bar.html": bar})

    _, _, button = render_fragment("bar.html", replaces=replaces).partition("<button")

    assert button.partition(">")[0].endswith('hx-swap="delete"') is leaves
