"""How does a queue do behind Sentinels, in a Cluster, and a millisecond away?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from drain import make_project
from lab import Figure, ask_child, workplace

from tests.clusters import PREFIX, SHARDS, Clustered
from tests.sentinels import Replicated
from tests.valkey import LASTING, Servers, Valkey
from tests.waiting import wait_until
from vibetuner.redis.url import SLOTS, Cluster

HERE = Path(__file__).parent
DRAIN, WAITING, CALLS, FAILOVER, PROXY = (
    HERE / name
    for name in (
        "drain_child.py", "waiting_child.py", "durable_child.py", "topologies_child.py", "delay.py",
    )
)  # fmt: skip
ROUNDS, KILLS = 3, 5
TASKS, CALLS_ALONE = 8000, 300
DOWN_AFTER_MS = 2000
SHARE, TOGETHER = 0.95, 10_000
# A question, its key in a child's answer, and its unit.
QUESTIONS = {
    "drained": ("drained", "tasks/s"),
    "enqueued": ("enqueued one by one", "tasks/s"),
    "together": ("enqueued by fifty at a time", "tasks/s"),
    "result p50": ("enqueue to result on an idle worker, median", "ms"),
    "result p99": ("the same, 99 of 100", "ms"),
}
OF_NEAR = f"{SHARE} of no delay"
FAR = {
    "drained": ("drained", "tasks/s", OF_NEAR),
    "together": ("enqueued by fifty at a time", "tasks/s", f"{TOGETHER:,} a second"),
    "alone": ("one enqueue, alone", "ms", ""),
}
NAMES = {"sentinel": "Sentinels, two replicas", "cluster": "a Cluster, three shards"}
NOTE = (
    "*Beside* is one server without replicas; where a proxy delays, the same proxy without a "
    "delay. All servers, replicas, Sentinels, workers and the proxy share this machine's cores. "
    f"A server counts as gone after {DOWN_AFTER_MS / 1000:g} s; a lone one is started again at "
    "once. The time from the kill ends with the first result of a task that was enqueued after it."
)

Runs = dict[str, list[dict[str, float]]]


def measure(*, beside: bool) -> list[Figure]:
    """Answer each question; the topologies take turns."""
    del beside
    folder = make_project()
    with ExitStack() as stack:

        def made(name: str) -> Path:
            place = workplace() / name
            place.mkdir()
            return place

        single = stack.enter_context(Valkey(made("single"), options=("--appendfsync", "everysec")))
        fleets: dict[str, Servers] = {
            "sentinel": Replicated(made("sentinel"), options=LASTING[:2], down_after=DOWN_AFTER_MS),
            "cluster": Clustered(
                made("cluster"),
                options=(*LASTING[:2], "--cluster-node-timeout", str(DOWN_AFTER_MS)),
            ),
        }
        for fleet in fleets.values():
            stack.enter_context(fleet)
        urls = {"single": single.url} | {name: fleet.url for name, fleet in fleets.items()}
        runs: Runs = {name: [] for name in urls}
        for _ in range(ROUNDS):
            for name, url in urls.items():
                runs[name].append(ask_all(url, folder))
        return [
            *(figure(key, name, runs) for key in QUESTIONS for name in fleets),
            *shards(fleets["cluster"].url, folder),
            *delayed(single.port, folder),
            *kills("one server, started again", single.url, partial(restart, single), folder),
            *(
                line
                for name, fleet in fleets.items()
                for line in kills(NAMES[name], fleet.url, partial(replace, fleet), folder)
            ),
        ]


def ask_all(url: str, folder: Path) -> dict[str, float]:
    """Run one round on one topology."""
    return {
        **ask_child(WAITING, "robust", url, folder=folder),
        **ask_child(DRAIN, "robust", url, TASKS, folder=folder),
        "together": ask_child(CALLS, "plain", url, CALLS_ALONE, folder=folder)["together"],
    }


def figure(key: str, name: str, runs: Runs) -> Figure:
    """Compare the answer to a question with that of one server."""
    words, unit = QUESTIONS[key]
    ours, one = [[run[key] for run in runs[of]] for of in (name, "single")]
    share = median(ours) / median(one) if unit != "ms" else median(one) / median(ours)
    return Figure(
        what=f"{words}: {NAMES[name]}",
        ours=median(ours),
        spread=(min(ours), max(ours)),
        unit=unit,
        aim=f"{SHARE} of one server",
        held=share >= SHARE,
        beside=median(one),
        beside_spread=(min(one), max(one)),
    )


def shards(url: str, folder: Path) -> Iterator[Figure]:
    """Measure one to three queues, each with a shard and a worker of its own."""
    first = None
    for count in range(1, SHARDS + 1):
        prefixes = [f"{{{name_on(shard)}}}" for shard in range(count)]
        rates = []
        for _ in range(ROUNDS):
            with ThreadPoolExecutor(count) as pool:
                ask = partial(ask_child, DRAIN, "robust", url, TASKS, folder=folder)
                rates.append(sum(one["drained"] for one in pool.map(ask, prefixes)))
        first = first or median(rates)
        yield Figure(
            what=f"drained by {count} worker{'s' * (count > 1)}, queues and shards",
            ours=median(rates),
            spread=(min(rates), max(rates)),
            unit="tasks/s",
            beside=None if count == 1 else first,
        )


def name_on(shard: int) -> str:
    """Return a name whose slot is on the shard."""
    names = (f"queue-{number}" for number in range(1000))
    return next(
        name
        for name in names
        if Cluster(hosts=(), prefix=f"{{{name}}}:").slot * SHARDS // SLOTS == shard
    )


def delayed(port: int, folder: Path) -> Iterator[Figure]:
    """Compare a delay of a millisecond each way with none."""
    runs: Runs = {"near": [], "far": []}
    with proxy(port, 0) as near, proxy(port, 1) as far:
        for _ in range(ROUNDS):
            for name, url in (("near", near), ("far", far)):
                calls = ask_child(CALLS, "plain", url, CALLS_ALONE, folder=folder)
                drained = ask_child(DRAIN, "robust", url, TASKS, folder=folder)["drained"]
                runs[name].append({"drained": drained, **calls})
    for key, (words, unit, aim) in FAR.items():
        far_runs, near_runs = [[run[key] for run in runs[name]] for name in ("far", "near")]
        ours, one = median(far_runs), median(near_runs)
        yield Figure(
            what=f"{words}, a millisecond each way",
            ours=ours,
            spread=(min(far_runs), max(far_runs)),
            unit=unit,
            aim=aim,
            held={"": None, OF_NEAR: ours >= SHARE * one}.get(aim, ours >= TOGETHER),
            beside=one,
            beside_spread=(min(near_runs), max(near_runs)),
        )


@contextmanager
def proxy(port: int, milliseconds: int) -> Iterator[str]:
    """Yield the URL of the server behind a proxy, which is a process of its own."""
    command = [sys.executable, PROXY, str(port), str(milliseconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"redis://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def kills(
    words: str, url: str, strike: Callable[[], tuple[float, float]], folder: Path
) -> Iterator[Figure]:
    """Kill the primary repeatedly, while a worker goes on."""
    # The Cluster's primary that is killed is that of this prefix.
    command = [sys.executable, FAILOVER, url, PREFIX.rstrip(":")]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    lines = (tuple(map(float, line.split())) for line in process.stdout)
    whole, promoted = [], []
    try:
        for _ in range(KILLS):
            now = time.monotonic()
            next(ended for began, ended in lines if began > now)
            killed, back = strike()
            ended = next(ended for began, ended in lines if began > killed)
            whole.append(ended - killed)
            promoted.append(ended - back)
    finally:
        process.kill()
        process.communicate()
    for what, seen in (("its kill", whole), ("another's promotion", promoted)):
        if what == "its kill" or "replicas" in words or "shards" in words:
            yield Figure(
                what=f"from {what} to the first task enqueued after it: {words}",
                ours=median(seen),
                spread=(min(seen), max(seen)),
                unit="s",
                aim="" if what == "its kill" else "5 s",
                held=None if what == "its kill" else max(seen) <= 5,
            )


def restart(single: Valkey) -> tuple[float, float]:
    """Kill the server and start it again; return the times of the kill and of the first answer."""
    single.kill()
    killed = time.monotonic()
    single.start()
    return killed, time.monotonic()


def replace(fleet: Servers) -> tuple[float, float]:
    """Kill the primary, and start it again as a replica; return the times of kill and promotion."""
    wait_until(fleet.is_whole, seconds=60)
    old = fleet.primary
    fleet.kill(old)
    killed = time.monotonic()
    promoted = fleet.wait_for_promotion(old)
    fleet.launch(old)
    return killed, promoted
