"""Names the tests that assert nothing: ``just lint`` fails while there is one.

A test asserts by ``assert``, by pytest's ``raises``, ``warns`` and ``fail``, by a method of pytest
plugins and mocks that is named so, by ``replay_fuzz`` of the test kit, or by a helper of the tests
that does one of these.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ASSERTIONS = {"raises", "warns", "fail", "expect", "replay_fuzz"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    """Print each test without an assertion, and exit with 1 if there is one."""
    functions = [
        (path, node)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, Function)
    ]
    helpers = find_helpers([node for _, node in functions if not is_test(node)])
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} asserts nothing"
        for path, node in functions
        if is_test(node) and not asserts(node, helpers)
    ]
    sys.exit("\n".join(silent) if silent else 0)


def is_test(node: Function) -> bool:
    """Return whether pytest collects the function."""
    return node.name.startswith("test_")


def find_helpers(functions: list[Function]) -> set[str]:
    """Return the names whose functions all assert, by themselves or by another one."""
    found: set[str] = set()
    while True:
        silent = {node.name for node in functions if not asserts(node, found)}
        new = {node.name for node in functions} - silent
        if new == found:
            return found
        found = new


def asserts(node: Function, helpers: set[str]) -> bool:
    """Return whether a function asserts, or calls a helper that does."""
    for part in ast.walk(node):
        if isinstance(part, ast.Assert):
            return True
        if isinstance(part, ast.Call):
            name = getattr(part.func, "attr", getattr(part.func, "id", ""))
            if name in ASSERTIONS | helpers or name.startswith("assert_"):
                return True
    return False


if __name__ == "__main__":
    main()
