"""What a generated thing consists of, told from its files: the draft that `destroy` takes back."""

from __future__ import annotations

from vibetuner.errors import CommandError
from vibetuner.scaffold.draft import Draft, Place
from vibetuner.scaffold.model import draft_model, parse_fields, read_model
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.route import draft_route
from vibetuner.scaffold.task import TaskOptions, draft_task, read_task_options

__all__ = ["draft_of_model", "draft_of_route", "draft_of_task"]


def draft_of_task(place: Place, name: Name) -> Draft:
    """As the task was made; raises CommandError when there is none of this name."""
    text = _read(place, f"tasks/{name.path}.py", f"task {name.path}")
    return draft_task(place, name, read_task_options(text, name) or TaskOptions())


def draft_of_route(place: Place, name: Name) -> Draft:
    """As the route was made; raises CommandError when there is none of this name."""
    _read(place, f"frontend/routes/{name.path}.py", f"route {name.path}")
    return draft_route(place, name)


def draft_of_model(place: Place, name: Name) -> Draft:
    """As the model was made; raises CommandError when there is none of this name."""
    text = _read(place, f"models/{name.path}.py", f"model {name.path}")
    fields, document = read_model(text, name) or ((), False)
    return draft_model(place, name, fields or parse_fields([], document=False), document=document)


def _read(place: Place, path: str, what: str) -> str:
    file = place.root / place.source / path
    if not file.is_file():
        raise CommandError(f"There is no {what}: {place.source}/{path} does not exist")
    return file.read_text(encoding="utf-8", errors="replace")
