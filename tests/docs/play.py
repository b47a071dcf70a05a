"""Plays a page in its project, where scripts and commands run one by one beside a worker.

It is run as a program in the project's folder. Its arguments are a file for the report, a port for
the web app, and the page's steps as JSON. The report holds the output of each step, as JSON.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from contextlib import redirect_stdout, suppress
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

# A command as a person types it, and as it runs here, in the existing environment.
STARTS = {"uv run vibetuner": f"{sys.executable} -m vibetuner", "uv run pytest": "pytest"}
ENVIRONMENT = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
# Loaded by its path, since `tests` is the folder of the page's project here.
wait_until = runpy.run_path(str(Path(__file__).parents[1] / "waiting.py"))["wait_until"]


async def play(steps: list[dict[str, str]], port: str) -> list[dict[str, Any]]:
    """Run the steps in order, beside a worker; the names of one script are known to the next."""
    check_project()
    worker, names, seen = get_worker(), {"__name__": "page", "__builtins__": __builtins__}, []
    shell = Shell(port)
    async with anyio.create_task_group() as group:
        await group.start(worker.run_async)
        try:
            for step in steps:
                seen.append(await run(step, names, shell))
                if seen[-1]["error"]:
                    break
        finally:
            await asyncio.to_thread(shell.close)
            worker.stop()
    return seen


async def run(step: dict[str, str], names: dict[str, Any], shell: Shell) -> dict[str, Any]:
    """Run one step in the way that the page's note asks for."""
    if step["language"] == "python":
        return await run_script(step, names)
    runs_on = step["note"].startswith("terminal")
    return await asyncio.to_thread(shell.leave_running if runs_on else shell.type, step)


def check_project() -> None:
    """Check what `vibetuner run` checks before it starts: tasks, tune.py, routes."""
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


class Shell:
    """Runs blocks of shell; the web app that one of them starts has a port of its own."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._running: list[subprocess.Popen[bytes]] = []

    def type(self, step: dict[str, str]) -> dict[str, Any]:
        """Run a block to its end."""
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(step["text"])],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
            timeout=120,
            check=False,
        )
        output = (ended.stdout + ended.stderr).replace(f":{self._port}", ":8000")
        error = f"exit code {ended.returncode}\n{output}" if ended.returncode else None
        return {"output": output, "error": error}

    def leave_running(self, step: dict[str, str]) -> dict[str, Any]:
        """Start a block, and wait for the last line that the page shows."""
        log = Path(f"terminal-{len(self._running)}.log")
        command = f"exec {self._here(step['text']).strip()} --port {self._port}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", command], stdout=file, stderr=subprocess.STDOUT, env=ENVIRONMENT
            )
        self._running.append(process)
        awaited = step["output"].strip().splitlines()[-1].split(" at ")[0]

        def has_come() -> bool:
            return awaited in log.read_text("utf-8") or process.poll() is not None

        with suppress(AssertionError):
            wait_until(has_come, seconds=120)
        if awaited not in (printed := log.read_text("utf-8")):
            return {"output": printed, "error": f"no {awaited!r} in:\n{printed}"}
        return {"output": step["output"], "error": None}

    def close(self) -> None:
        """End the running blocks."""
        for process in self._running:
            process.send_signal(signal.SIGINT)
        for process in self._running:
            process.wait(60)

    def _here(self, text: str) -> str:
        for typed, run_as in STARTS.items():
            text = text.replace(typed, run_as)
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")


if __name__ == "__main__":
    configure_logging(debug=False, as_json=False)
    report = asyncio.run(play(json.loads(sys.argv[3]), sys.argv[2]))
    Path(sys.argv[1]).write_text(json.dumps(report), encoding="utf-8")
