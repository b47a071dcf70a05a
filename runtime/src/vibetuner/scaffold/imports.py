"""The imports at the top of a module: where one more belongs, and how to take one out."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from vibetuner.scaffold.source import Source

__all__ = ["add_import", "bound_names", "import_lines", "remove_import"]


def bound_names(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """What a module binds at its top, and which module and name each comes from.

    >>> bound_names(ast.parse("from a.b import c as d\\nimport e.f\\napp = 1"))
    {'d': ('a.b', 'c'), 'e': ('e.f', ''), 'app': ('', '')}
    """
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom():
                names = {a.asname or a.name: (node.module or "", a.name) for a in node.names}
            case ast.Import():
                names = {a.asname or a.name.partition(".")[0]: (a.name, "") for a in node.names}
            case ast.Name(id=name, ctx=ast.Store()):
                names = {name: ("", "")}
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                names = {name: ("", "")}
            case _:
                continue
        found.update(names)
    return found


def import_lines(module: str, names: Sequence[str], *, width: int) -> str:
    """An import as formatters write it: in one line where it fits.

    >>> import_lines("shop.tasks", ["b", "a"], width=30)
    'from shop.tasks import a, b'
    >>> print(import_lines("shop.tasks", ["build_report"], width=30))
    from shop.tasks import (
        build_report,
    )
    """
    ordered = sorted(names, key=_order)
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) <= width:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in ordered), ")"])


def add_import(text: str, module: str, name: str, local: str, *, width: int) -> str:
    """The text with ``from module import name``, where sorted imports have it.

    >>> add_import("from vibetuner import VibetunerApp\\n", "shop.b", "c", "c", width=88)
    'from vibetuner import VibetunerApp\\n\\nfrom shop.b import c\\n'
    """
    source = Source.parse(text)
    mark = text[: len(text) - len(source.text)]
    if bound_names(source.tree).get(local) == (module, name):
        return text
    written = name if local == name else f"{name} as {local}"
    same = [node for node in _from_imports(source) if node.module == module]
    if same and (edited := _merged(source, same[0], written, width)):
        return mark + edited
    new = import_lines(module, [written], width=width)
    lines = "".join(f"{line}{source.newline}" for line in new.split("\n"))
    package = module.partition(".")[0]
    family = [n for n in _from_imports(source) if (n.module or "").partition(".")[0] == package]
    later = [node for node in family if _natural(node.module or "") > _natural(module)]
    if later:
        place = _with_comments(source, later[0])
    elif family:
        place = source.next_line(family[-1])
    else:
        imports = [n for n in source.tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        if not imports:
            raise ValueError("it has no import to stand beside")
        place, lines = source.next_line(imports[-1]), source.newline + lines
    before = source.text[:place]
    if before and not before.endswith(("\n", "\r")):
        before += source.newline
    return f"{mark}{before}{lines}{source.text[place:]}"


def remove_import(text: str, module: str, name: str, *, width: int) -> str:
    """The text without ``from module import name``.

    >>> remove_import("from a import b\\n\\nfrom shop.b import c\\n", "shop.b", "c", width=88)
    'from a import b\\n'
    """
    source = Source.parse(text)
    mark = text[: len(text) - len(source.text)]
    for node in _from_imports(source):
        if node.module == module and any(alias.name == name for alias in node.names):
            kept = [ast.unparse(alias) for alias in node.names if alias.name != name]
            start, end = source.line_start(node.lineno), source.next_line(node)
            if not kept:
                return mark + _without_lines(source, start, end)
            if "#" in source.text[start:end]:
                raise ValueError(f"the import of {name} has a comment")
            lines = import_lines(module, kept, width=width).replace("\n", source.newline)
            return f"{mark}{source.text[:start]}{lines}{source.newline}{source.text[end:]}"
    return text


def _without_lines(source: Source, start: int, end: int) -> str:
    """Cut lines out, with one of the two blank lines that would meet."""
    before, after, blank = source.text[:start], source.text[end:], source.newline * 2
    if before.endswith(blank) and (not after or after.startswith(source.newline)):
        before = before.removesuffix(source.newline)
    return before + after


def _from_imports(source: Source) -> list[ast.ImportFrom]:
    return [
        node
        for node in source.tree.body
        if isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__"
    ]


def _merged(source: Source, node: ast.ImportFrom, written: str, width: int) -> str | None:
    """One name more in an import that is there; None where a comment would move."""
    start, end = source.start(node), source.end(node)
    if "#" in source.text[start:end] or ";" in source.lines[node.lineno - 1]:
        return None
    names = [*(ast.unparse(alias) for alias in node.names), written]
    lines = import_lines(node.module or "", names, width=width).replace("\n", source.newline)
    return f"{source.text[:start]}{lines}{source.text[end:]}"


def _with_comments(source: Source, node: ast.stmt) -> int:
    """Where a statement begins, together with the comment right above it."""
    number = node.lineno
    while number > 1 and source.lines[number - 2].startswith("#"):
        number -= 1
    return source.line_start(number)


def _order(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then the rest, as import sorters have it."""
    plain = name.partition(" ")[0]
    kind = 0 if plain.isupper() and len(plain) > 1 else 1 if plain[:1].isupper() else 2
    return kind, name


def _natural(module: str) -> list[tuple[int, str]]:
    """A key that puts reports2 before reports10."""
    parts = re.split(r"(\d+)", module.lower())
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]
