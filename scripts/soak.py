"""Run all tests several times beside a process that loads both cores: ``just soak 20``.

Prints a line for each run, with the seed of its random order, and below it each failed test with
the command that runs its file in that order again, and where the run's output is. Exits with 1 if a
test failed.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PYTEST = ("-m", "pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
CORES = 2
# The process ends with its parent.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def main() -> None:
    """Run pytest with the arguments that are left, as often as the first one says."""
    times, *options = sys.argv[1:] or ["20"]
    if not times.isdigit() or times == "0":
        sys.exit(f"expected a number of runs, found {times!r}. Type:  just soak 20")
    print("| run | seed | minutes | passed | failed |\n| --- | --- | --- | --- | --- |", flush=True)
    codes = []
    with loaded():
        for number in range(1, int(times) + 1):
            began, seed = time.monotonic(), random.randrange(2**32)  # noqa: S311 - no secret
            done = subprocess.run(
                [sys.executable, *PYTEST, f"--randomly-seed={seed}", *options],
                capture_output=True,
                text=True,
                check=False,
            )
            codes.append(done.returncode)
            report(number, seed, done, (time.monotonic() - began) / 60)
    sys.exit(any(codes))


@contextmanager
def loaded() -> Iterator[None]:
    """Keep two cores busy inside the block."""
    with ExitStack() as stack:
        for _ in range(CORES):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(process.kill)
        yield


def report(number: int, seed: int, done: subprocess.CompletedProcess[str], minutes: float) -> None:
    """Print a run's line, and below it the tests that failed."""
    summary = (done.stdout.splitlines() or [""])[-1]
    passed, failed, errors = (
        sum(map(int, re.findall(rf"(\d+) {word}", summary)))
        for word in ("passed", "failed", "error")
    )
    print(f"| {number} | {seed} | {minutes:.1f} | {passed} | {failed + errors} |", flush=True)
    named = re.findall(r"^(?:FAILED|ERROR) ([^:\s]+)(.*)", done.stdout, re.MULTILINE)
    for file, rest in named:
        print(
            f"    {file}{rest}\n        uv run just test {file} --randomly-seed={seed}", flush=True
        )
    if done.returncode:
        output = Path("build") / f"soak-{seed}.log"
        output.parent.mkdir(exist_ok=True)
        output.write_text(done.stdout + done.stderr, encoding="utf-8")
        print(f"    exit code {done.returncode}; whole output: {output}", flush=True)


if __name__ == "__main__":
    main()
