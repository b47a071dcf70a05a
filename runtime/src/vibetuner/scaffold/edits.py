"""Edits tune.py without changing other bytes: ``ast`` finds positions, text is inserted there.

The result is parsed again. It must be the same program with one more, or one less, import and list
element; otherwise the file stays as it is, and the error names the lines to edit by hand.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vibetuner.errors import CommandError

Edit = tuple[int, int, str]
Node = ast.expr | ast.stmt | ast.alias | ast.keyword


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of tune.py: ``from module import name``, and the name in ``keyword=[...]``.

    tune.py imports it under the first free name of ``locals``, or else under the last.
    """

    keyword: str
    module: str
    name: str
    locals: tuple[str, ...]

    @property
    def origin(self) -> tuple[str, str]:
        """The module and the name in it."""
        return self.module, self.name

    def statement(self, local: str) -> str:
        """Return the import, in one line."""
        renamed = "" if local == self.name else f" as {local}"
        return f"from {self.module} import {self.name}{renamed}"


def add_entry(text: str, entry: Entry) -> str:
    """Return tune.py with the entry; unchanged if it is there already.

    Raises:
        CommandError: tune.py can't be edited safely; the message has the two lines to add by hand.

    >>> print(add_entry("from vibetuner import VibetunerApp\\n\\napp = VibetunerApp()\\n",
    ...     Entry("tasks", "shop.tasks.reports", "reports", ("reports",))), end="")
    from vibetuner import VibetunerApp
    from shop.tasks.reports import reports
    <BLANKLINE>
    app = VibetunerApp(tasks=[reports])
    """
    local = entry.locals[0]
    try:
        source = _Source(text)
        local = _local_name(source, entry)
        element = _add_element(source, entry.keyword, local)
        edited = source.apply([*element, *_add_import(source, entry, local)])
        _compare(text, edited, entry, local)
    except ValueError as error:
        raise CommandError(
            f"tune.py can't be edited safely: {error}. Add by hand:  {entry.statement(local)}  "
            f"and to VibetunerApp(...):  {entry.keyword}=[..., {local}]"
        ) from None
    return edited


def remove_entry(text: str, entry: Entry) -> str:
    """Return tune.py without the entry; unchanged if it isn't there.

    Raises:
        CommandError: tune.py can't be edited safely; the message has the parts to remove by hand.
    """
    local = entry.locals[0]
    try:
        source = _Source(text)
        local = _local_name(source, entry)
        if source.names.get(local) != entry.origin:
            return text
        element = _remove_element(source, entry.keyword, local)
        edited = source.apply([*element, *_remove_import(source, entry)])
        _compare(edited, text, entry, local)
    except ValueError as error:
        raise CommandError(
            f"tune.py can't be edited safely: {error}. Remove by hand:  "
            f"{entry.statement(local)}  and {local} in {entry.keyword}=[...]"
        ) from None
    return edited


class _Source:
    """A file's text, its tree, and the offsets of ``ast``'s positions in the text.

    Raises:
        ValueError: the text is not Python; the message names the line.
    """

    def __init__(self, text: str) -> None:
        # A byte order mark belongs to the first line, but ast's positions don't count it.
        self.text, self.mark = text, int(text.startswith("\ufeff"))
        try:
            self.tree = ast.parse(text[self.mark :])
        except SyntaxError as error:
            raise ValueError(f"line {error.lineno or 0}: {error.msg}") from None
        # Lines as Python counts them: neither form feeds nor Unicode's own separators end one.
        self.lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", text[self.mark :])
        found = re.search(r"\r\n|\r|\n", text)
        self.newline = found[0] if found else "\n"
        self.names = _origins(self.tree)

    def start(self, node: Node) -> int:
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: Node) -> int:
        return self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)

    def line(self, node: Node) -> int:
        """Return where the node's first line begins."""
        return self._offset(node.lineno, 0)

    def next_line(self, node: Node) -> int:
        """Return where the line after the node begins."""
        return self._offset((node.end_lineno or node.lineno) + 1, 0)

    def apply(self, edits: list[Edit]) -> str:
        """Return the text with all edits, which must not overlap."""
        text = self.text
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def stands_alone(self, node: Node) -> bool:
        """Return whether nothing else is on the node's lines, except a comma and a comment."""
        after = self.text[self.end(node) : self.next_line(node)]
        return not self.text[self.line(node) : self.start(node)].strip() and bool(
            re.fullmatch(r"[ \t]*,?[ \t]*(#[^\r\n]*)?(\r\n|\r|\n)", after)
        )

    def has_comment(self, node: Node) -> bool:
        """Return whether there may be a comment on the node's lines."""
        return "#" in self.text[self.start(node) : self.next_line(node)]

    def _offset(self, line: int, column: int) -> int:
        """Return a position in characters; ``ast`` counts columns in UTF-8 bytes."""
        before = self.lines[line - 1].encode()[:column].decode() if column else ""
        return self.mark + sum(map(len, self.lines[: line - 1])) + len(before)


def _origins(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return the names that a module binds, with the module and name that each is imported from.

    >>> _origins(ast.parse("from a.b import c as d\\nimport e.f\\napp = 1"))
    {'d': ('a.b', 'c'), 'e': ('e.f', ''), 'app': ('', '')}
    """
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom():
                found |= {a.asname or a.name: (node.module or "", a.name) for a in node.names}
            case ast.Import():
                found |= {a.asname or a.name.partition(".")[0]: (a.name, "") for a in node.names}
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name):
                found[name] = ("", "")
            case ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = ("", "")
    return found


def _local_name(source: _Source, entry: Entry) -> str:
    """Return the name under which tune.py imports the entry, or else a free name."""
    for local, origin in source.names.items():
        if origin == entry.origin:
            return local
    return next((local for local in entry.locals if local not in source.names), entry.locals[-1])


def _find_call(tree: ast.Module) -> ast.Call:
    """Return the only call of VibetunerApp; raise ValueError if there are none or several."""
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr) == "VibetunerApp"
    ]
    if len(calls) != 1:
        raise ValueError(f"it has {len(calls) or 'no'} VibetunerApp(...)")
    if calls[0].args or any(keyword.arg is None for keyword in calls[0].keywords):
        raise ValueError("VibetunerApp(...) takes its arguments from elsewhere")
    return calls[0]


def _find_list(call: ast.Call, keyword: str) -> ast.List | None:
    for given in call.keywords:
        if given.arg == keyword:
            if not isinstance(given.value, ast.List):
                raise ValueError(f"{keyword}= is not written as a list")
            return given.value
    return None


def _add_element(source: _Source, keyword: str, name: str) -> list[Edit]:
    """Add ``name`` at the end of the list; create the list if it is missing.

    >>> source = _Source("app = VibetunerApp(routes=[r])")
    >>> source.apply(_add_element(source, "tasks", "b"))
    'app = VibetunerApp(tasks=[b], routes=[r])'
    """
    call = _find_call(source.tree)
    elements = _find_list(call, keyword)
    if elements is None:
        start = source.start(call.keywords[0]) if call.keywords else source.end(call.func) + 1
        return [(start, start, f"{keyword}=[{name}]{', ' if call.keywords else ''}")]
    if not elements.elts:
        start, end = source.start(elements) + 1, source.end(elements) - 1
        if source.text[start:end]:
            raise ValueError("its list holds nothing but space or a comment")
        return [(start, start, name)]
    if any(ast.unparse(item) == name for item in elements.elts):
        return []
    last = elements.elts[-1]
    end, after = source.end(last), source.next_line(last)
    if not source.stands_alone(last):
        return [(end, end, f", {name}")]
    # A comment after the last element stays with it.
    comma = "" if source.text[end:].lstrip().startswith(",") else ","
    indent = source.text[source.line(last) : source.start(last)]
    return [(end, end, comma), (after, after, f"{indent}{name},{source.newline}")]


def _remove_element(source: _Source, keyword: str, name: str) -> list[Edit]:
    """Remove ``name`` from the list, and the list with its last element.

    >>> source = _Source("app = VibetunerApp(tasks=[a, b, c], models=[d])")
    >>> source.apply(_remove_element(source, "tasks", "b"))
    'app = VibetunerApp(tasks=[a, c], models=[d])'
    >>> source.apply(_remove_element(source, "models", "d"))
    'app = VibetunerApp(tasks=[a, b, c])'
    """
    call = _find_call(source.tree)
    elements = _find_list(call, keyword)
    items = elements.elts if elements else []
    index = next((i for i, item in enumerate(items) if ast.unparse(item) == name), None)
    if index is None:
        return []
    if elements and len(items) == 1 and not source.has_comment(elements):
        names = [given.arg for given in call.keywords]
        return _remove_node(source, call.keywords, names.index(keyword))
    return _remove_node(source, items, index)


def _remove_node(source: _Source, nodes: Sequence[Node], index: int) -> list[Edit]:
    """Remove one of several nodes that commas separate."""
    node = nodes[index]
    if source.stands_alone(node):
        return [(source.line(node), source.next_line(node), "")]
    if index:
        return [(source.end(nodes[index - 1]), source.end(node), "")]
    return [(source.start(node), source.start(nodes[1]) if nodes[1:] else source.end(node), "")]


def _add_import(source: _Source, entry: Entry, local: str) -> list[Edit]:
    """Add the import after the last one of its package, or else after the last one."""
    if source.names.get(local) == entry.origin:
        return []
    imports = [node for node in source.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    if not imports:
        raise ValueError("it has no import after which to add one")
    package = re.compile(rf"{re.escape(entry.module.partition('.')[0])}(\.|$)")
    family = [
        node
        for node in imports
        if isinstance(node, ast.ImportFrom) and package.match(node.module or "")
    ]
    start = source.next_line((family or imports)[-1])
    before = "" if source.text[:start].endswith(("\n", "\r")) else source.newline
    return [(start, start, f"{before}{entry.statement(local)}{source.newline}")]


def _remove_import(source: _Source, entry: Entry) -> list[Edit]:
    for node in source.tree.body:
        if not isinstance(node, ast.ImportFrom) or node.module != entry.module:
            continue
        kept = [ast.unparse(alias) for alias in node.names if alias.name != entry.name]
        if len(kept) == len(node.names):
            continue
        start, end = source.line(node), source.next_line(node)
        if not kept:
            # Of two adjacent blank lines, remove one.
            blank = source.text[:start].endswith(source.newline * 2)
            blank = blank and source.text[end:].startswith(source.newline)
            return [(start, end + len(source.newline) * blank, "")]
        if "#" in source.text[start:end]:
            raise ValueError(f"the import of {entry.name} has a comment")
        statement = f"from {entry.module} import {', '.join(kept)}"
        return [(source.start(node), source.end(node), statement)]
    return []


def _compare(less: str, more: str, entry: Entry, local: str) -> None:
    """Raise ValueError unless ``more`` is ``less`` plus the entry."""
    source = _Source(more)
    elements = _find_list(_find_call(source.tree), entry.keyword)
    listed = [item for item in elements.elts if ast.unparse(item) == local] if elements else []
    known = len(listed) == 1 and source.names.get(local) == entry.origin
    if not known or _reduced(less, entry, local) != _reduced(more, entry, local):
        raise ValueError("its form is unexpected")


def _reduced(text: str, entry: Entry, local: str) -> str:
    """Return the program without the entry, for comparison."""
    tree = _Source(text).tree
    call = _find_call(tree)
    if elements := _find_list(call, entry.keyword):
        elements.elts = [item for item in elements.elts if ast.unparse(item) != local]
        if not elements.elts:
            call.keywords = [keyword for keyword in call.keywords if keyword.arg != entry.keyword]
    imports: list[str] = []
    rest: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == entry.module and not node.level:
            imports += [ast.unparse(alias) for alias in node.names if alias.name != entry.name]
        else:
            rest.append(node)
    tree.body = rest
    return f"{sorted(imports)}{ast.dump(tree)}"
