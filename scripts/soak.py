"""Run all tests several times beside a process that loads both cores: ``just soak 20``.

Prints a line a run, with the seed of its random order, and exits with 1 if one has failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

PYTEST = ("-m", "pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
CORES = 2
# It ends with whoever has started it.
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
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, *PYTEST, *options], capture_output=True, text=True, check=False
            )
            codes.append(done.returncode)
            report(number, done.stdout, (time.monotonic() - began) / 60)
    sys.exit(any(codes))


@contextmanager
def loaded() -> Iterator[None]:
    """Keep two cores busy inside the block."""
    with ExitStack() as stack:
        for _ in range(CORES):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(process.kill)
        yield


def report(number: int, output: str, minutes: float) -> None:
    """Print a run's line, and below it the tests that failed."""
    seed = re.search(r"random seed: (\d+)|randomly-seed=(\d+)", output)
    counts = {
        word: sum(int(found) for found in re.findall(rf"(\d+) {word}", output.splitlines()[-1]))
        for word in ("passed", "failed", "error")
    }
    failed = counts["failed"] + counts["error"]
    shown = next(filter(None, seed.groups())) if seed else "?"
    print(f"| {number} | {shown} | {minutes:.1f} | {counts['passed']} | {failed} |", flush=True)
    for line in re.findall(r"^(?:FAILED|ERROR) .*", output, re.MULTILINE):
        print(f"    {line}", flush=True)


if __name__ == "__main__":
    main()
