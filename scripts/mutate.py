"""Changes one module in many small ways, and shows the changes that no test of it notices.

``just mutate retry`` tries all changes; a pattern after the module selects some, such as ``'*7'``
about a tenth. mutmut works in build/mutate, and needs the sources in ``src``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "mutate"
TASKS, SSE = "tests/runtime/tasks", "tests/runtime/sse"
RUNS = (f"{TASKS}/run/test_attempts.py", f"{TASKS}/run/test_giving_up.py")

# Each module, and the tests that are quick enough to run for each change.
MODULES = {
    "tasks/retry": (f"{TASKS}/test_retry.py", "src/vibetuner/tasks/retry.py"),
    "tasks/payload": (
        f"{TASKS}/test_payload.py",
        "tests/regressions/test_signatures_of_places.py",
        "src/vibetuner/tasks/payload.py",
    ),
    "scaffold/names": ("tests/runtime/scaffold/test_names.py", "src/vibetuner/scaffold/names.py"),
    "sse/feed": (f"{SSE}/test_feed.py", f"{SSE}/test_hub.py"),
    "sse/hub": (f"{SSE}/test_hub.py",),
    "frontend/debug/gate": (
        "tests/runtime/frontend/debug/test_gate.py",
        "src/vibetuner/frontend/debug/gate.py",
    ),
    "tasks/run/finisher": (f"{TASKS}/run/test_finisher.py", *RUNS),
    "tasks/run/dispatcher": (
        f"{TASKS}/run/test_dispatcher.py",
        "src/vibetuner/tasks/run/dispatcher.py",
        *RUNS,
    ),
}

SHOWN = {"survived", "no tests", "timeout", "suspicious"}
CONFIG = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/vibetuner/{module}.py"]
pytest_add_cli_args = ["-p", "no:randomly", "-p", "no:cacheprovider"]
pytest_add_cli_args_test_selection = {tests}
# The text of a log line is not behaviour.
do_not_mutate_patterns = ['logger\\.\\w+']
timeout_constant = 5.0
"""


def main() -> None:
    """Mutate the named module, and print each change that survives."""
    name, *patterns = sys.argv[1:] or [""]
    module = next((each for each in MODULES if name == each.rpartition("/")[2]), None)
    if module is None:
        known = ", ".join(each.rpartition("/")[2] for each in MODULES)
        sys.exit(f"there is no module {name!r} to mutate. There are: {known}")
    make_tree(module)
    dotted = f"vibetuner.{module.replace('/', '.')}."
    mutmut("run", "--max-children", "1", *[f"{dotted}{each}" for each in patterns])
    results = mutmut("results", capture_output=True).stdout
    for line in results.splitlines():
        mutant, _, state = line.strip().partition(": ")
        if dotted in mutant and state in SHOWN:
            print(f"\n{state}: ", end="", flush=True)
            mutmut("show", mutant)


def make_tree(module: str) -> None:
    """Create the folder in which mutmut works, anew for each run."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "src").symlink_to(ROOT / "runtime" / "src")
    (FOLDER / "tests").symlink_to(ROOT / "tests")
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    config += CONFIG.format(module=module, tests=list(MODULES[module]))
    (FOLDER / "pyproject.toml").write_text(config, encoding="utf-8")


def mutmut(*arguments: str, capture_output: bool = False) -> subprocess.CompletedProcess[str]:
    """Run mutmut in its folder."""
    return subprocess.run(
        ["mutmut", *arguments], cwd=FOLDER, check=False, text=True, capture_output=capture_output
    )


if __name__ == "__main__":
    main()
