"""What does a robust task cost, against a plain one and against the engine alone?"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from lab import Figure, ask_child, workplace

from vibetuner.embedded import join

ROUNDS = 5
CHILD = Path(__file__).with_name("drain_child.py")
# Enough for a second or two of each.
COUNTS = {"streaq": 1000, "streaq signed": 1000, "plain": 4000, "robust": 8000}
WORDS = {
    "streaq": "streaq alone",
    "streaq signed": "streaq alone, payloads signed",
    "plain": "`@worker.task()`, signed, logged",
    "robust": "`@robust_task()`, signed, logged",
}
QUESTIONS = {
    "drained": ("drained", 15),
    "enqueued": ("enqueued one by one", 5),
    "together": ("enqueued by `enqueue_many`", 5),
}
NOTE = (
    "No-ops through one worker at concurrency 32, in the process that enqueued them. A drain lasts "
    "from the first run to the last, which excludes the worker's start."
)
TUNE = "from vibetuner import VibetunerApp\n\napp = VibetunerApp()\n"

Rates = dict[str, list[dict[str, float]]]


def measure(*, beside: bool) -> list[Figure]:
    """Measure tasks a second of the four in turn."""
    del beside
    folder = make_project()
    seen: Rates = {name: [] for name in COUNTS}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for name, runs in seen.items():
                arguments = (name, lease.urls["redis"], COUNTS[name])
                runs.append(ask_child(CHILD, *arguments, folder=folder))
    return [figure(key, name, seen) for key in QUESTIONS for name in COUNTS]


def figure(key: str, name: str, seen: Rates) -> Figure:
    """Return the median; the ratio is our rate over the engine's."""
    words, times = QUESTIONS[key]
    ours, raw = [[run[key] for run in seen[of]] for of in (name, "streaq")]
    aimed = name == "robust"
    return Figure(
        what=f"{words}: {WORDS[name]}",
        ours=median(ours),
        spread=(min(ours), max(ours)),
        unit="tasks/s",
        aim=f"{times} times the engine's: {times * median(raw):.0f}" if aimed else "",
        held=median(ours) >= times * median(raw) if aimed else None,
        beside=None if name == "streaq" else median(raw),
    )


def make_project(name: str = "drainer", tune: str = TUNE) -> Path:
    """Write the smallest project that a worker runs in, or one with this ``tune.py``."""
    folder = workplace() / name
    package = folder / "src" / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "tune.py").write_text(tune, encoding="utf-8")
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n', encoding="utf-8")
    return folder
