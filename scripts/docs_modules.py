"""Renders the reference pages of the public modules: each docstring and signature as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from inspect import cleandoc
from textwrap import dedent
from typing import Any

import griffe

from docs_scan import RUNTIME

__all__ = ["module_page", "plain", "table"]

NOTE = "<!-- `just docs` writes this page from the docstrings -->"
WIDTH = 88
ROLE = re.compile(r":(?:attr|class|func|meth|mod):`~?([^`]+)`")
CODE = re.compile(r"``([^`]+)``")
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
LITERAL_BLOCK = re.compile(r"^::\n\n((?:(?: {4}.*)?(?:\n|\Z))+)", re.MULTILINE)
# Decorators that change how a function is called.
TELLING = ("asynccontextmanager", "contextmanager", "classmethod", "staticmethod")
BARE = {
    griffe.ParameterKind.var_positional: "*",
    griffe.ParameterKind.var_keyword: "**",
}


def module_page(name: str) -> str:
    """Return the page of a module: its docstring, and all that it exports."""
    module = package().modules_collection[name]
    parts = [f"# {name}", NOTE, *docstring(module)]
    for export in module.exports or ():
        parts += member(find(module, str(export)), str(export), level=2)
    return "\n\n".join(parts) + "\n"


@cache
def package() -> griffe.GriffeLoader:
    """Return the runtime, parsed and not imported."""
    loader = griffe.GriffeLoader(search_paths=[RUNTIME], allow_inspection=False)
    loader.load("vibetuner")
    loader.resolve_aliases()
    return loader


def find(module: griffe.Module, name: str) -> Any:
    """Return an exported object, from the module that defines it."""
    # A module may have the name of a function in it, as sse.broadcast has.
    place = module.imports.get(name)
    found = package().modules_collection[place] if place else module.members[name]
    return found.final_target if found.is_alias else found


def member(item: Any, name: str, *, level: int) -> Iterator[str]:
    """Yield the parts of a class, a function or a property, if it has a docstring."""
    if item.docstring is None:
        return
    yield f"{'#' * level} {name}"
    yield f"```python\n{declaration(item, name.rpartition('.')[2])}\n```"
    yield from docstring(item)
    if not item.is_class:
        return
    if fields := list(fields_of(item)):
        yield table(("attribute", "type", "meaning"), fields)
    for child_name, child in item.members.items():
        if child.is_function and not child_name.startswith("_"):
            yield from member(child, f"{name}.{child_name}", level=3)


def declaration(item: Any, name: str) -> str:
    """Return how an object is declared: decorators that matter, name, parameters, result."""
    if item.is_attribute:
        annotation = f": {item.annotation}" if item.annotation else ""
        value = f" = {item.value}" if item.value else ""
        return quoted(f"{name}{annotation}{value}")
    if item.is_class:
        bases = ", ".join(str(base) for base in item.bases)
        head = f"class {name}({bases})" if bases else f"class {name}"
        parameters = parameters_of(item)
        return f"{head}\n\n{call(name, parameters)}" if parameters else head
    values = [str(decorator.value).split("(")[0] for decorator in item.decorators]
    decorators = [f"@{value}" for value in values if value.split(".")[-1] in TELLING]
    start = "async def" if "async" in item.labels else "def"
    result = f" -> {item.returns}" if item.returns else ""
    return "\n".join([*decorators, call(f"{start} {name}", parameters_of(item), result)])


def parameters_of(item: Any) -> list[griffe.Parameter]:
    """Return what a caller passes: to a function, a method, or a class's own constructor."""
    if item.is_class:
        item = item.members.get("__init__")
    if item is None or not item.is_function:
        return []
    is_bound = item.parent.is_class and "staticmethod" not in item.labels
    return list(item.parameters)[is_bound:]


def call(head: str, parameters: list[griffe.Parameter], result: str = "") -> str:
    """Return a declaration in one line, or in a line for each parameter if that is too long.

    >>> call("def now", [])
    'def now()'
    """
    texts = list(written(parameters))
    line = f"{head}({', '.join(texts)}){result}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{head}(", *(f"    {text}," for text in texts), f"){result}"])


def written(parameters: list[griffe.Parameter]) -> Iterator[str]:
    """Yield the parameters as they are declared, with the star before keywords."""
    starred = False
    for each in parameters:
        if each.kind is griffe.ParameterKind.keyword_only and not starred:
            yield "*"
        starred = starred or each.kind not in {
            griffe.ParameterKind.positional_only,
            griffe.ParameterKind.positional_or_keyword,
        }
        star = BARE.get(each.kind, "")
        annotation = f": {each.annotation}" if each.annotation else ""
        equals = " = " if annotation else "="
        default = f"{equals}{each.default}" if each.default is not None and not star else ""
        yield quoted(f"{star}{each.name}{annotation}{default}")


def fields_of(item: griffe.Class) -> Iterator[tuple[str, ...]]:
    """Yield the attributes and properties that have a docstring of their own, and enum members."""
    is_enum = any("Enum" in str(base) for base in item.bases)
    for name, child in item.members.items():
        if name.startswith("_") or not child.is_attribute:
            continue
        if child.docstring:
            yield code(name), code(child.annotation), flat(child.docstring.value)
        elif is_enum:
            yield code(name), code(child.value), ""


def docstring(item: Any) -> Iterator[str]:
    """Yield the parts of a docstring: texts, tables of parameters, a list of errors."""
    if item.docstring is None:
        return
    item.docstring.value = plain(item.docstring.value)
    for section in item.docstring.parse("google"):
        match section.kind.value:
            case "text":
                yield section.value
            case "parameters":
                kinds = {each.name: each.kind for each in parameters_of(item)}
                rows = [
                    (code(star + one.name), code(one.annotation), default, flat(one.description))
                    for one in section.value
                    for star in [BARE.get(kinds.get(one.name), "")]
                    for default in ["" if star else code(one.value)]
                ]
                yield table(("parameter", "type", "default", "meaning"), rows)
            case "attributes":
                rows = [
                    (code(one.name), code(one.annotation), flat(one.description))
                    for one in section.value
                ]
                yield table(("attribute", "type", "meaning"), rows)
            case "raises":
                errors = [
                    f"- `{str(one.annotation).strip('()')}`: {flat(one.description)}"
                    for one in section.value
                ]
                yield "\n".join(["Raises:", "", *errors])
            case other:
                raise SystemExit(f"error: {item.path}: no page shows a section {other}. Add it")


def plain(text: str) -> str:
    """Return a docstring as Markdown: roles become code, examples and ``::`` become blocks.

    >>> print(plain(":class:`~x.Y` holds ``z``."))
    `x.Y` holds `z`.
    """
    text = CODE.sub(r"`\1`", ROLE.sub(r"`\1`", cleandoc(text)))
    text = EXAMPLE.sub(r"```pycon\n\g<0>\n```", text)
    return LITERAL_BLOCK.sub(
        lambda found: f"```python\n{dedent(found[1]).strip()}\n```\n\n", text
    ).strip()


def code(value: object) -> str:
    """Return a type or a default as code; nothing where there is none."""
    return f"`{quoted(str(value))}`" if value is not None else ""


def quoted(text: str) -> str:
    """Return a declaration with the quotes that our formatter writes.

    >>> quoted("message: str = ''")
    'message: str = ""'
    """
    return re.sub(r"'([^'\"\\\\]*)'", r'"\1"', text)


def flat(text: str) -> str:
    """Return a text without its examples in one line, as a cell needs it."""
    return " ".join(plain(EXAMPLE.sub("", cleandoc(text))).split())


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines)


def escape(cell: str) -> str:
    """Return a cell's text without a bar, which would end the cell, even in code.

    >>> escape("`dev|prod`")
    '<code>dev&#124;prod</code>'
    """
    coded = re.sub(r"`([^`]*\|[^`]*)`", r"<code>\1</code>", cell)
    return coded.replace("|", "&#124;")
