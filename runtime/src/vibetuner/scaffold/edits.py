"""The byte-preserving edit of tune.py: ``ast`` finds the place, plain text makes the change.

What was written is read again, and must mean what was meant: the same program, with one import
and one element of a list more, or fewer. What can't be edited like that is left alone.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from vibetuner.errors import CommandError
from vibetuner.scaffold.imports import add_import, bound_names, remove_import
from vibetuner.scaffold.lists import add_element, find_call, find_list, remove_element
from vibetuner.scaffold.source import Source

__all__ = ["Entry", "add_entry", "has_entry", "remove_entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What tune.py lists: ``from module import name``, and it in the list ``keyword=[...]``.

    ``locals`` are what tune.py may call it, the first that is free; the last one in any case.
    """

    keyword: str
    module: str
    name: str
    locals: tuple[str, ...]

    def statement(self, local: str) -> str:
        """The import, in one line."""
        renamed = "" if local == self.name else f" as {local}"
        return f"from {self.module} import {self.name}{renamed}"


def add_entry(text: str, entry: Entry, *, width: int = 88) -> str:
    """tune.py with the entry in it; the same text when it is in already.

    Args:
        text: tune.py as it is.
        entry: what to import and to list.
        width: how long a line may be.

    Raises:
        CommandError: it can't be edited safely; the message has the two lines to add by hand.

    >>> print(add_entry("from vibetuner import VibetunerApp\\n\\napp = VibetunerApp()\\n",
    ...     Entry("tasks", "shop.tasks.reports", "reports", ("reports",))), end="")
    from vibetuner import VibetunerApp
    <BLANKLINE>
    from shop.tasks.reports import reports
    <BLANKLINE>
    app = VibetunerApp(tasks=[reports])
    """
    local = entry.locals[0]
    try:
        local = _local_name(text, entry)
        with_element = add_element(text, entry.keyword, local, width=width)
        edited = add_import(with_element, entry.module, entry.name, local, width=width)
        _compare(text, edited, entry, local)
    except ValueError as error:
        raise CommandError(
            f"tune.py can't be edited safely: {error}. Add by hand:  {entry.statement(local)}  "
            f"and to VibetunerApp(...):  {entry.keyword}=[..., {local}]"
        ) from None
    return edited


def remove_entry(text: str, entry: Entry, *, width: int = 88) -> str:
    """tune.py without the entry; the same text when it isn't there.

    Raises:
        CommandError: it can't be edited safely; the message has what to take out by hand.
    """
    local = entry.locals[0]
    try:
        if not has_entry(text, entry):
            return text
        local = _local_name(text, entry)
        without = remove_element(text, entry.keyword, local)
        edited = remove_import(without, entry.module, entry.name, width=width)
        _compare(edited, text, entry, local)
    except ValueError as error:
        raise CommandError(
            f"tune.py can't be edited safely: {error}. Take out by hand:  "
            f"{entry.statement(local)}  and {local} in {entry.keyword}=[...]"
        ) from None
    return edited


def has_entry(text: str, entry: Entry) -> bool:
    """Whether tune.py imports it; raises ValueError when it is no Python."""
    return any(
        alias.name == entry.name
        for node in Source.parse(text).tree.body
        if isinstance(node, ast.ImportFrom) and node.module == entry.module
        for alias in node.names
    )


def _local_name(text: str, entry: Entry) -> str:
    """What tune.py calls it: as it is imported already, or else by a name that is free."""
    names = bound_names(Source.parse(text).tree)
    for local, origin in names.items():
        if origin == (entry.module, entry.name):
            return local
    return next((local for local in entry.locals if local not in names), entry.locals[-1])


def _compare(less: str, more: str, entry: Entry, local: str) -> None:
    """Raise ValueError unless ``more`` is ``less`` with the entry."""
    expected, found = _reduced(less, entry, local), _reduced(more, entry, local)
    # Both without the entry: whatever else has changed shows.
    if expected != found:
        raise ValueError("its form is unexpected")
    call = find_call(Source.parse(more).tree)
    elements = find_list(call, entry.keyword)
    listed = [item for item in elements.elts if ast.unparse(item) == local] if elements else []
    if len(listed) != 1 or bound_names(Source.parse(more).tree).get(local) != (
        entry.module,
        entry.name,
    ):
        raise ValueError("its form is unexpected")


def _reduced(text: str, entry: Entry, local: str) -> str:
    """The program without the entry, for comparison."""
    tree = Source.parse(text).tree
    call = find_call(tree)
    for keyword in call.keywords:
        if keyword.arg == entry.keyword and isinstance(keyword.value, ast.List):
            keyword.value.elts = [e for e in keyword.value.elts if ast.unparse(e) != local]
    call.keywords = [k for k in call.keywords if not _is_empty(k, entry.keyword)]
    call.keywords.sort(key=lambda keyword: keyword.arg or "")
    imports: list[str] = []
    rest: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == entry.module and not node.level:
            imports += [ast.unparse(a) for a in node.names if a.name != entry.name]
        else:
            rest.append(node)
    tree.body = rest
    return f"{sorted(imports)}{ast.dump(tree)}"


def _is_empty(keyword: ast.keyword, wanted: str) -> bool:
    value = keyword.value
    return keyword.arg == wanted and isinstance(value, ast.List) and not value.elts
