"""Finds the tasks, models and pages of a project in its code, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

DECORATORS = {"task", "cron", "robust_task", "robust_cron"}

Found = tuple[Path, int]


def find_tasks(source: Path) -> dict[str, Found]:
    """Return the file and line of every decorated task below ``source``, by its name."""
    return {
        name: (path, node.lineno)
        for path, node in _walk(source)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if (name := _task_name(decorator, node.name))
    }


def find_models(source: Path) -> Iterator[tuple[str, str, Found]]:
    """Yield class, table, file and line of every SQL table and document below ``source``."""
    for path, node in _walk(source):
        if isinstance(node, ast.ClassDef):
            is_document = any(ast.unparse(base).endswith("Document") for base in node.bases)
            if is_document or any(keyword.arg == "table" for keyword in node.keywords):
                yield node.name, _table_name(node), (path, node.lineno)


def find_pages(source: Path) -> Iterator[tuple[str, Found]]:
    """Yield path, file and line of every page below ``source``, except of routers with a prefix."""
    prefixed = {
        path
        for path, node in _walk(source)
        if isinstance(node, ast.Call) and any(one.arg == "prefix" for one in node.keywords)
    }
    for path, node in _walk(source):
        match node:
            case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(url)), *_]):
                if url.startswith("/") and path not in prefixed:
                    yield url, (path, node.lineno)


def _walk(source: Path) -> Iterator[tuple[Path, ast.AST]]:
    """Yield every node of every file; skip files that are not valid Python."""
    for path in sorted(source.rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            yield path, node


def _table_name(model: ast.ClassDef) -> str:
    """Return the name of a model's table or collection.

    >>> text = "class Order(SQLModel, table=True):\\n    __tablename__ = 'orders'"
    >>> _table_name(ast.parse(text).body[0])
    'orders'
    """
    settings = [node for node in model.body if isinstance(node, ast.ClassDef)]
    bodies = {"__tablename__": model.body, "name": [n for one in settings for n in one.body]}
    for wanted, body in bodies.items():
        for name, value in assigned(body):
            if name == wanted and isinstance(value, ast.Constant):
                return str(value.value)
    return model.name.lower()


def assigned(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that the statements assign to, each with its value."""
    for node in body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                yield name, value


def _task_name(decorator: ast.expr, function: str) -> str | None:
    """Return the name under which a decorator registers a function; None if it doesn't.

    >>> tree = ast.parse("worker.cron('* * * * *', name='nightly')", mode="eval")
    >>> _task_name(tree.body, "clean")
    'nightly'
    """
    call = decorator if isinstance(decorator, ast.Call) else None
    match call.func if call else decorator:
        case ast.Name(id=called) | ast.Attribute(attr=called) if called in DECORATORS:
            pass
        case _:
            return None
    for keyword in call.keywords if call else []:
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return function
