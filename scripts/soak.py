"""Run all tests several times beside a process that loads both cores: ``just soak 20``.

``--stall`` also stops all processes of a run at once for up to 1.5 seconds, again and again, as a
busy host stalls a virtual machine.

Prints a line for each run, with the seed of its random order, and below it each failed test with
the command that runs its file in that order again, and where the run's output is. Exits with 1 if a
test failed.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

PYTEST = ("-m", "pytest", "-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder")
CORES = 2
# The process ends with its parent.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
STALL = "--stall"


def main() -> None:
    """Run pytest with the arguments that are left, as often as the first one says."""
    # Otherwise, processes that are stopped at that moment would remain stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    words = [word for word in sys.argv[1:] if word != STALL]
    times, *options = words or ["20"]
    if not times.isdigit() or times == "0":
        sys.exit(f"expected a number of runs, found {times!r}. Type:  just soak 20")
    print("| run | seed | minutes | passed | failed |\n| --- | --- | --- | --- | --- |", flush=True)
    codes = []
    with loaded():
        for number in range(1, int(times) + 1):
            began, seed = time.monotonic(), random.randrange(2**32)  # noqa: S311 - no secret
            process = subprocess.Popen(
                [sys.executable, *PYTEST, f"--randomly-seed={seed}", *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            with process, stalled(process.pid, seed) if STALL in sys.argv else nullcontext():
                try:
                    output, _ = process.communicate()
                finally:
                    process.kill()
            codes.append(process.returncode)
            report(number, seed, output, process.returncode, (time.monotonic() - began) / 60)
    sys.exit(any(codes))


@contextmanager
def loaded() -> Iterator[None]:
    """Keep two cores busy inside the block."""
    with ExitStack() as stack:
        for _ in range(CORES):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(process.kill)
        yield


@contextmanager
def stalled(root: int, seed: int) -> Iterator[None]:
    """Stop all that a process has started for 0.2 to 1.5 seconds, every few seconds."""
    ended, chance, known = threading.Event(), random.Random(seed), set[tuple[str, str]]()  # noqa: S311 - no secret

    def stall() -> None:
        while not ended.wait(chance.uniform(0.5, 4)):
            stopped = [pid for pid in going(str(root), known) if send(pid, signal.SIGSTOP)]
            time.sleep(chance.uniform(0.2, 1.5))
            for pid in stopped:
                send(pid, signal.SIGCONT)

    thread = threading.Thread(target=stall)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def going(root: str, known: set[tuple[str, str]]) -> list[str]:
    """Return a process's descendants, except those that are stopped already.

    One whose parent has ended is found by its id and start, which are kept in ``known``.
    """
    listed = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="], text=True)
    rows = [line.split(maxsplit=3) for line in listed.splitlines()]
    family = {pid for pid, _, _, began in rows if pid == root or (pid, began) in known}
    while new := {pid for pid, parent, *_ in rows if parent in family} - family:
        family |= new
    rows = [row for row in rows if row[0] in family - {root}]
    known |= {(pid, began) for pid, _, _, began in rows}
    return [pid for pid, _, state, _ in rows if state[0] not in "TZ"]


def send(pid: str, number: signal.Signals) -> bool:
    """Send a signal; return whether the process is still there."""
    with suppress(ProcessLookupError):
        os.kill(int(pid), number)
        return True
    return False


def report(number: int, seed: int, output: str, code: int, minutes: float) -> None:
    """Print a run's line, and below it the tests that failed."""
    summary = (output.splitlines() or [""])[-1]
    passed, failed, errors = (
        sum(map(int, re.findall(rf"(\d+) {word}", summary)))
        for word in ("passed", "failed", "error")
    )
    print(f"| {number} | {seed} | {minutes:.1f} | {passed} | {failed + errors} |", flush=True)
    named = re.findall(r"^(?:FAILED|ERROR) ([^:\s]+)(.*)", output, re.MULTILINE)
    for file, rest in named:
        print(
            f"    {file}{rest}\n        uv run just test {file} --randomly-seed={seed}", flush=True
        )
    if code:
        log = Path("build") / f"soak-{seed}.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(output, encoding="utf-8")
        print(f"    exit code {code}; whole output: {log}", flush=True)


if __name__ == "__main__":
    main()
