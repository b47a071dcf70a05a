"""A model: a table or a document, its test, its line in tune.py."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vibetuner.errors import CommandError
from vibetuner.scaffold.draft import Draft, Place, packages_of, test_path
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.names import Name, plural
from vibetuner.scaffold.rendering import Renderer

__all__ = ["ModelField", "draft_model", "parse_fields", "read_model"]

# A type's annotation, and a value for the test.
TYPES = {
    "str": ("str", '"text"'),
    "int": ("int", "1"),
    "float": ("float", "1.5"),
    "bool": ("bool", "True"),
    "datetime": ("datetime", "datetime(2026, 1, 2, tzinfo=UTC)"),
    "date": ("date", "date(2026, 1, 2)"),
    "uuid": ("UUID", "UUID(int=1)"),
}
IN_DOCUMENTS = {"str", "int", "float", "bool", "datetime"}
# What a model has already.
RESERVED = {
    "id", "aggregate", "all", "copy", "construct", "count", "delete", "dict", "distinct", "find",
    "get", "insert", "inspect_collection", "json", "metadata", "parse_obj", "registry", "replace",
    "revision_id", "save", "schema", "set", "settings", "state_management", "sync", "update",
    "upsert", "validate",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelField:
    """One column or key."""

    name: str
    type: str
    optional: bool

    @property
    def annotation(self) -> str:
        """As Python has it."""
        return f"{TYPES[self.type][0]}{' | None' if self.optional else ''}"

    @property
    def sample(self) -> str:
        """A value for a test."""
        return TYPES[self.type][1]

    @property
    def is_datetime(self) -> bool:
        """Whether it is a moment, which SQL databases need told about time zones."""
        return self.type == "datetime"


def parse_fields(texts: Sequence[str], *, document: bool) -> tuple[ModelField, ...]:
    """Fields from ``name:type``; ``?`` at the end makes one optional, no type means str.

    Raises:
        CommandError: a name or a type that can't be, or a name twice.

    >>> parse_fields(["number", "paid_at:datetime?"], document=False)[1]
    ModelField(name='paid_at', type='datetime', optional=True)
    """
    fields = tuple(_parse_field(text, document=document) for text in texts or ("name:str",))
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise CommandError(f"The field {name} is there twice. Keep one")
    return fields


def draft_model(
    place: Place,
    name: Name,
    fields: Sequence[ModelField],
    *,
    document: bool = False,
    test: bool = True,
) -> Draft:
    """Everything that a model of this name consists of."""
    render = Renderer(place).render
    kind = "document" if document else "table"
    types = {field.type for field in fields}
    # Required ones first: Python has it so in classes with defaults, and people expect it.
    ordered = sorted(fields, key=lambda field: field.optional)
    values = {"name": name, "fields": ordered, "types": types, "collection": plural(name.leaf)}
    files = {f"{place.source}/models/{name.path}.py": render(f"{kind}.py", **values)}
    path = test_path("models", name)
    if test:
        files[path] = render(f"test_{kind}.py", **values)
    checked = f"uv run pytest {path}" if test else "uv run just test"
    steps = (checked, "uv run vibetuner db create-schema", "uv run just check")
    return Draft(
        files=files,
        packages=packages_of(place, "models", "models", name, test=test),
        entries=(model_entry(place, name, document=document),),
        next_steps=steps
        if not document
        else (checked, "uv run just local-all", "uv run just check"),
    )


def model_entry(place: Place, name: Name, *, document: bool) -> Entry:
    """What tune.py says of a model."""
    module = f"{place.package}.models.{name.dotted}"
    keyword_ = "models" if document else "sql_models"
    return Entry(keyword_, module, name.class_name, (name.class_name, f"{name.class_name}Model"))


def read_model(text: str, name: Name) -> tuple[tuple[ModelField, ...], bool] | None:
    """The fields that a model's file was made with, and whether it is a document; None if other."""
    kinds = {annotation: kind for kind, (annotation, _) in TYPES.items()}
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name.class_name:
            fields = [
                ModelField(item.target.id, kinds[annotation], written != annotation)
                for item in node.body
                if isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and item.target.id != "id"
                and (written := ast.unparse(item.annotation))
                and (annotation := written.removesuffix(" | None")) in kinds
            ]
            return tuple(fields), ast.unparse(node.bases[0]) == "Document" if node.bases else False
    return None


def _parse_field(text: str, *, document: bool) -> ModelField:
    found = re.fullmatch(r"([a-z][a-z0-9_]{0,39})(?::([a-z]+)(\?)?)?", text)
    types = IN_DOCUMENTS if document else TYPES.keys()
    if not found or (found[2] or "str") not in types:
        raise CommandError(
            f"A field is name:type, with ? at the end when it may be empty, and a type of "
            f"{', '.join(sorted(types))}; not {text!r}"
        )
    name = found[1]
    if name in RESERVED or name.startswith("model_") or keyword.iskeyword(name):
        raise CommandError(f"A model can't have a field named {name}. Try:  {name}_value")
    return ModelField(name, found[2] or "str", bool(found[3]))
