"""A model: a table or a document, with its test and its line in tune.py."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from vibetuner.errors import CommandError, shorten
from vibetuner.scaffold.draft import Draft, Place, Renderer, next_steps, read_module, test_path
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.migration import draft_migration, has_migrations
from vibetuner.scaffold.names import Name, plain_words, plural
from vibetuner.scaffold.registered import find_models


class Type(NamedTuple):
    """A type in Python, a value for a test, and a column's type in a migration."""

    annotation: str
    sample: str
    column: str


TYPES = {
    "str": Type("str", '"text"', "sa.String()"),
    "int": Type("int", "1", "sa.Integer()"),
    "float": Type("float", "1.5", "sa.Float()"),
    "bool": Type("bool", "True", "sa.Boolean()"),
    "datetime": Type("datetime", "datetime(2026, 1, 2, tzinfo=UTC)", "sa.DateTime(timezone=True)"),
    "date": Type("date", "date(2026, 1, 2)", "sa.Date()"),
    "uuid": Type("UUID", "UUID(int=1)", "sa.Uuid()"),
}
# Every project has these; in users, each document needs another email.
COLLECTIONS = {"dead_letters": "the dead letters", "users": "vibetuner.models.UserModel"}
IN_DOCUMENTS = {"str", "int", "float", "bool", "datetime"}
# Types, which a field of that name would hide from later fields, and names that every model has,
# beside the attributes of its class; ruff calls l ambiguous.
RESERVED = {
    "bool", "date", "datetime", "float", "int", "str",
    "cls", "id", "inspect_collection", "l", "registry", "revision_id", "self", "state_management",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelField:
    """A column of a table, or a key of a document."""

    name: str
    type: str
    optional: bool

    @property
    def annotation(self) -> str:
        """The annotation in Python."""
        return f"{TYPES[self.type].annotation}{' | None' if self.optional else ''}"

    @property
    def sample(self) -> str:
        """A value for a test."""
        return TYPES[self.type].sample

    @property
    def column(self) -> str:
        """The column's type in a migration."""
        return TYPES[self.type].column


def parse_fields(texts: Sequence[str], *, document: bool) -> tuple[ModelField, ...]:
    """Parse fields from ``name:type``; a final ``?`` makes one optional, no type means str.

    Raises:
        CommandError: a name or a type is not valid, or a name occurs twice.

    >>> parse_fields(["number", "paid_at:datetime?"], document=False)[1]
    ModelField(name='paid_at', type='datetime', optional=True)
    """
    fields = tuple(_parse_field(text, document=document) for text in texts or ("name:str",))
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise CommandError(f"The field {name} is given twice. Keep one")
    return fields


def draft_model(
    place: Place,
    name: Name,
    fields: Sequence[ModelField],
    *,
    document: bool = False,
    test: bool = True,
) -> Draft:
    """Draft a model and, if the project has migrations, one that creates its table."""
    render = Renderer(place).render
    kind, table = "document" if document else "table", plural(name.leaf)
    # Required fields first, as Python demands in classes with defaults.
    ordered = sorted(fields, key=lambda field: field.optional)
    types = {field.type for field in fields}
    values = {"name": name, "fields": ordered, "types": types, "collection": table}
    files = {place.path("models", name): render(f"{kind}.py", **values)}
    path = test_path("models", name)
    if test:
        files[path] = render(f"test_{kind}.py", **values)
    run = "uv run just local-all"
    if not document:
        migration = draft_migration(place, table, fields=ordered)
        files |= migration
        done = migration or not has_migrations(place)
        run = "uv run vibetuner db " + ("upgrade" if done else f"revision 'Create {table}'")
    keyword_ = "models" if document else "sql_models"
    imported = (name.class_name, f"{name.class_name}Model")
    return Draft(
        files=files,
        entries=(Entry(keyword_, place.module("models", name), name.class_name, imported),),
        next_steps=next_steps(path if test else "", run),
    )


def check_table_free(place: Place, name: Name, *, document: bool = False) -> None:
    """Raise CommandError if another file has a model of this name, or its table or collection."""
    suggestion = "/".join((*name.folders, f"{name.leaf}_record"))
    if document and (owner := COLLECTIONS.get(plural(name.leaf))):
        raise CommandError(
            f"The collection {plural(name.leaf)} is that of {owner}. Try:  {suggestion}"
        )
    for class_name, table, (path, line) in find_models(place.root / place.source):
        if path != place.root / place.path("models", name) and (
            class_name == name.class_name or table == plural(name.leaf)
        ):
            raise CommandError(
                f"{path.relative_to(place.root)}:{line} has the model {class_name} already, in "
                f"the table {table}. Try:  {suggestion}"
            )


def draft_of_model(place: Place, name: Name) -> Draft:
    """Draft a model as it was generated; its migration is kept, as a database may have it.

    Raises CommandError if there is no model of this name.
    """
    text = read_module(place, place.path("models", name), f"model {name.path}")
    document = "(Document):" in text
    fields = _read_fields(text) or parse_fields([], document=document)
    draft = draft_model(place, name, fields, document=document)
    if document or not has_migrations(place):
        return draft
    status, *rest = draft.after_removal
    drop = f"uv run vibetuner db revision 'Remove {plural(name.leaf)}'"
    return replace(draft, after_removal=(status, drop, *rest))


def _read_fields(text: str) -> list[ModelField]:
    """Return the fields of a generated model.

    >>> _read_fields("    id: int | None = Field()\\n    at: date | None = None")
    [ModelField(name='at', type='date', optional=True)]
    """
    kinds = {one.annotation: kind for kind, one in TYPES.items()}
    found = re.findall(r"(?m)^    ([a-z]\w*): (\w+)( \| None)?", text)
    return [
        ModelField(name, kinds[annotation], bool(optional))
        for name, annotation, optional in found
        if name != "id" and annotation in kinds
    ]


def _parse_field(text: str, *, document: bool) -> ModelField:
    found = re.fullmatch(r"([a-z][a-z0-9_]{0,39})(?::([a-z]+)(\?)?)?", text)
    types = IN_DOCUMENTS if document else TYPES.keys()
    if not found or (found[2] or "str") not in types:
        hint = _nearest(text, sorted(types), document=document)
        raise CommandError(
            f"A field is name:type, with ? at the end when it may be empty, and a type of "
            f"{', '.join(sorted(types))}; not {shorten(text)}" + (f". Try:  {hint}" if hint else "")
        )
    name = found[1]
    if _is_reserved(name, document=document):
        raise CommandError(f"A model can't have a field named {name}. Try:  {_free(name)}")
    return ModelField(name, found[2] or "str", bool(found[3]))


def _is_reserved(name: str, *, document: bool) -> bool:
    module, base = ("beanie", "Document") if document else ("sqlmodel", "SQLModel")
    is_taken = name in RESERVED or hasattr(getattr(import_module(module), base), name)
    return is_taken or name.startswith("model_") or keyword.iskeyword(name)


def _free(name: str) -> str:
    return f"{name.removeprefix('model_')[:34]}_value"


def _nearest(text: str, types: list[str], *, document: bool = False) -> str:
    """Return the nearest valid field; empty if there is none.

    >>> [_nearest(text, sorted(TYPES)) for text in ("PaidAt:date??", "a?:integer", "a:money")]
    ['paid_at:date?', 'a:int?', '']
    """
    name, _, kind = text.replace("=", ":").partition(":")
    name = plain_words(name)
    name = _free(name) if _is_reserved(name, document=document) else name
    close = get_close_matches(kind.lower().strip("?! ") or "str", types, n=1)
    return f"{name}:{close[0]}{'?' if '?' in text else ''}" if name and close else ""
