"""Plays a page in its project: a worker runs, scripts and commands take their turns.

Run as a program in the project's folder, with the page's steps as JSON on stdin; prints what each
of them has written, as JSON.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import subprocess
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import anyio

from vibetuner.frontend.app import create_app
from vibetuner.loader import load_project
from vibetuner.logs import configure_logging
from vibetuner.project import project_info
from vibetuner.tasks.registry import check_tasks, import_tasks
from vibetuner.tasks.worker import get_worker

# As a person types it, and as it runs here: in the environment that is there already.
STARTS = {"uv run vibetuner": f"{sys.executable} -m vibetuner", "uv run pytest": "pytest"}


async def play(steps: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Run the steps in order, beside a worker; what a script names, the next one knows."""
    check_project()
    worker, names, seen = get_worker(), {"__name__": "page", "__builtins__": __builtins__}, []
    async with anyio.create_task_group() as group:
        await group.start(worker.run_async)
        for step in steps:
            run = run_script if step["language"] == "python" else run_command
            seen.append(await run(step, names))
            if seen[-1]["error"]:
                break
        worker.stop()
    return seen


def check_project() -> None:
    """What `vibetuner run` checks before it starts: tasks, tune.py, routes."""
    app = load_project()
    import_tasks(project_info())
    check_tasks(app, get_worker())
    create_app()


async def run_script(step: dict[str, str], names: dict[str, Any]) -> dict[str, Any]:
    """Run a block of Python in which `await` may stand anywhere."""
    written = io.StringIO()
    try:
        code: CodeType = compile(
            step["text"], step["place"], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        )
        with redirect_stdout(written):
            async with asyncio.timeout(60):
                result = FunctionType(code, names)()
                if asyncio.iscoroutine(result):
                    await result
    except BaseException:  # noqa: BLE001 - reported by the test
        return {"output": written.getvalue(), "error": traceback.format_exc()}
    return {"output": written.getvalue(), "error": None}


async def run_command(step: dict[str, str], _names: dict[str, Any]) -> dict[str, Any]:
    """Run a block of shell; the worker goes on meanwhile."""
    text = step["text"]
    for typed, run in STARTS.items():
        text = text.replace(typed, run)
    ended = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", text],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
        timeout=120,
        check=False,
    )
    output = ended.stdout + ended.stderr
    error = f"exit code {ended.returncode}\n{output}" if ended.returncode else None
    return {"output": output, "error": error}


if __name__ == "__main__":
    configure_logging(debug=False, as_json=False)
    report = asyncio.run(play(json.load(sys.stdin)))
    Path(sys.argv[1]).write_text(json.dumps(report), encoding="utf-8")
