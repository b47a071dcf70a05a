"""Rules for the sources that the import contracts can't express."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import vibetuner

PACKAGE = Path(vibetuner.__file__).parent
# These names of streaq begin with an underscore.
PRIVATE = re.compile(
    r"\._(?:initialized|running_tasks|cancel_scopes|lib|limiter|streams|abort_key|"
    r"channel_key|previous_key|results_set|retry_key|running_set|fallback_key)\b"
    r"|\btask\._after\b|from streaq[\w.]* import [^\n]*\b_\w+"
)


def test_only_one_module_touches_what_is_private_in_streaq():
    """Only tasks/engine.py uses private names of streaq, which may change with each version."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if PRIVATE.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"tasks/engine.py"}


def test_streaqs_worker_has_one_subclass():
    """TaskWorker is the only subclass of streaq's worker; the other parts are its attributes."""
    found = [
        (path.name, node.name)
        for path in PACKAGE.rglob("*.py")
        if "Worker" in (text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).split("[")[0] in {"Worker", "TaskWorker", "streaq.Worker"}
    ]
    assert found == [("worker.py", "TaskWorker")]


def test_no_module_of_tasks_makes_its_names_when_they_are_asked_for():
    """No module of these packages has a `__getattr__`, which would hide a cycle of imports."""
    found = [
        str(path.relative_to(PACKAGE))
        for folder in ("tasks", "sse", "redis")
        for path in (PACKAGE / folder).rglob("*.py")
        if "__getattr__" in (text := path.read_text(encoding="utf-8"))
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    ]
    assert found == []
