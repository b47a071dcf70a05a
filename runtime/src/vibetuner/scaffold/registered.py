"""Which tasks the project's code registers, read without running it."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["find_tasks"]

DECORATORS = {"task", "cron", "robust_task", "robust_cron"}


def find_tasks(source: Path) -> dict[str, tuple[Path, int]]:
    """File and line of every decorated task below ``source``, by the task's name.

    A file that is no Python is left out: whoever runs it hears of it.
    """
    found: dict[str, tuple[Path, int]] = {}
    for path in sorted(source.rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for decorator in node.decorator_list:
                    name = _task_name(decorator, node.name)
                    if name:
                        found[name] = (path, node.lineno)
    return found


def _task_name(decorator: ast.expr, function: str) -> str | None:
    """The name that a decorator registers a function under; None when it does not.

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
