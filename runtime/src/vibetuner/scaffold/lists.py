"""The lists that ``VibetunerApp(...)`` is given in tune.py."""

from __future__ import annotations

import ast
import re

from vibetuner.scaffold.source import Source

__all__ = ["add_element", "find_call", "find_list", "remove_element"]

INDENT = "    "


def find_call(tree: ast.Module) -> ast.Call:
    """The one call of VibetunerApp; raises ValueError when there are none or several."""
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _callee(node) == "VibetunerApp"
    ]
    if len(calls) != 1:
        raise ValueError(f"it has {len(calls) or 'no'} VibetunerApp(...)")
    if calls[0].args or any(keyword.arg is None for keyword in calls[0].keywords):
        raise ValueError("VibetunerApp(...) takes its arguments from elsewhere")
    return calls[0]


def find_list(call: ast.Call, keyword: str) -> ast.List | None:
    """The list of this keyword; None when it isn't given; ValueError when it is no list."""
    for given in call.keywords:
        if given.arg == keyword:
            if not isinstance(given.value, ast.List):
                raise ValueError(f"{keyword}= is not written as a list")
            return given.value
    return None


def add_element(text: str, keyword: str, name: str, *, width: int) -> str:
    """The text with ``name`` at the end of the list, which is made where it is missing.

    >>> add_element("app = VibetunerApp(tasks=[a])", "tasks", "b", width=88)
    'app = VibetunerApp(tasks=[a, b])'
    >>> add_element("app = VibetunerApp(routes=[r])", "tasks", "b", width=88)
    'app = VibetunerApp(tasks=[b], routes=[r])'
    """
    source = Source.parse(text)
    call = find_call(source.tree)
    elements = find_list(call, keyword)
    if elements is None:
        edited = _with_keyword(source, call, f"{keyword}=[{name}]")
    elif any(ast.unparse(item) == name for item in elements.elts):
        return text
    elif not elements.elts:
        edited = _fill_empty(source, elements, name)
    else:
        edited = _append(source, elements, name)
    mark = text[: len(text) - len(source.text)]
    return mark + _fitted(edited, keyword, width)


def remove_element(text: str, keyword: str, name: str) -> str:
    """The text without ``name`` in the list.

    >>> remove_element("app = VibetunerApp(tasks=[a, b, c])", "tasks", "b")
    'app = VibetunerApp(tasks=[a, c])'
    """
    source = Source.parse(text)
    elements = find_list(find_call(source.tree), keyword)
    items = elements.elts if elements else []
    places = [place for place, item in enumerate(items) if ast.unparse(item) == name]
    if not places:
        return text
    mark, place = text[: len(text) - len(source.text)], places[0]
    item = items[place]
    if _alone(source, item):
        return mark + _cut(source.text, source.line_start(item.lineno), source.next_line(item))
    if place:
        return mark + _cut(source.text, source.end(items[place - 1]), source.end(item))
    after = source.start(items[1]) if len(items) > 1 else source.end(item)
    return mark + _cut(source.text, source.start(item), after)


def _with_keyword(source: Source, call: ast.Call, written: str) -> str:
    if not call.keywords:
        opening = source.end(call.func) + 1
        rest = source.text[opening:].lstrip(" ")
        return f"{source.text[:opening]}{written}{rest}"
    first = call.keywords[0]
    start = source.start(first)
    if (
        first.lineno > call.lineno
        and not source.text[source.line_start(first.lineno) : start].strip()
    ):
        indent = source.text[source.line_start(first.lineno) : start]
        return _put(source.text, start, f"{written},{source.newline}{indent}")
    return _put(source.text, start, f"{written}, ")


def _fill_empty(source: Source, elements: ast.List, name: str) -> str:
    if source.text[source.start(elements) + 1 : source.end(elements) - 1]:
        raise ValueError("its list holds nothing but space or a comment")
    return _put(source.text, source.start(elements) + 1, name)


def _append(source: Source, elements: ast.List, name: str) -> str:
    last = elements.elts[-1]
    if not _alone(source, last):
        return _put(source.text, source.end(last), f", {name}")
    end, next_line = source.end(last), source.next_line(last)
    indent = source.text[source.line_start(last.lineno) : source.start(last)]
    line = f"{indent}{name},{source.newline}"
    comma = "" if source.text[end:].lstrip().startswith(",") else ","
    return f"{source.text[:end]}{comma}{source.text[end:next_line]}{line}{source.text[next_line:]}"


def _alone(source: Source, item: ast.expr) -> bool:
    """Whether an element has its line, or lines, to itself, but for a comma and a comment."""
    before = source.text[source.line_start(item.lineno) : source.start(item)]
    after = source.text[source.end(item) : source.next_line(item)]
    return not before.strip() and bool(
        re.fullmatch(r"[ \t]*,?[ \t]*(#[^\r\n]*)?(\r\n|\r|\n)", after)
    )


def _fitted(text: str, keyword: str, width: int) -> str:
    """With a call, and then a list, that are longer than a line taken apart as formatters do."""
    source = Source.parse(text)
    call = find_call(source.tree)
    if len(source.lines[call.lineno - 1].rstrip()) <= width and call.lineno == call.end_lineno:
        return text
    if call.lineno == call.end_lineno:
        text = _one_a_line(source, source.end(call.func), call.keywords, source.end(call))
        source = Source.parse(text)
        call = find_call(source.tree)
    elements = find_list(call, keyword)
    if elements is None or elements.lineno != elements.end_lineno:
        return text
    if len(source.lines[elements.lineno - 1].rstrip()) <= width:
        return text
    return _one_a_line(source, source.start(elements), elements.elts, source.end(elements))


def _one_a_line(
    source: Source, opening: int, items: list[ast.keyword] | list[ast.expr], closing: int
) -> str:
    """What stands between two brackets, each item on a line of its own."""
    number = source.text.count("\n", 0, opening) if "\n" in source.newline else 0
    outer = re.match(r"[ \t]*", source.lines[number])
    indent = outer[0] if outer else ""
    lines = [
        f"{indent}{INDENT}{source.text[source.start(item) : source.end(item)]},{source.newline}"
        for item in items
    ]
    inside = f"{source.newline}{''.join(lines)}{indent}"
    return f"{source.text[: opening + 1]}{inside}{source.text[closing - 1 :]}"


def _put(text: str, place: int, more: str) -> str:
    return f"{text[:place]}{more}{text[place:]}"


def _cut(text: str, start: int, end: int) -> str:
    return text[:start] + text[end:]


def _callee(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""
