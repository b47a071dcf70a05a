"""How does a queue do behind Sentinels, in a Cluster, and a millisecond away?"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from uuid import uuid4

from drain import make_project
from lab import Figure, ask_child, clean_env, workplace

from tests.clusters import PREFIX, SHARDS, Clustered
from tests.sentinels import Replicated
from tests.valkey import LASTING, Servers, Valkey
from tests.waiting import wait_until
from vibetuner.redis.blocking import ask
from vibetuner.redis.url import SLOTS, Address, Cluster

HERE = Path(__file__).parent
DRAIN, WAITING, CALLS, FAILOVER, PROXY = (
    HERE / name
    for name in (
        "drain_child.py", "waiting_child.py", "durable_child.py", "topologies_child.py", "delay.py",
    )
)  # fmt: skip
ROUNDS, KILLS = 3, 5
COMMANDS = ("tasks stats", "tasks list", "doctor")
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
COSTS = ("the primary", "its replicas")
OF_NEAR = f"{SHARE} of no delay"
FAR = {
    "drained": ("drained", "tasks/s", OF_NEAR),
    "together": ("enqueued by fifty at a time", "tasks/s", f"{TOGETHER:,} a second"),
    "alone": ("one enqueue, alone", "ms", ""),
}
NAMES = {"sentinel": "Sentinels, two replicas", "cluster": "a Cluster, three shards"}
NOTE = (
    "*Beside* is the same primary, with the same replicas, addressed as one server; where a proxy "
    "delays, the same proxy without a delay; for a command, what it takes anyway.\n\nAll servers, "
    "replicas, Sentinels, workers and the proxy share this machine's cores, so replicas take "
    "processor time from the worker here; *what the replicas cost* compares with a server that has "
    "none. "
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
        urls = {"single": (single.url, (single.port,), ())}
        for name, fleet in fleets.items():
            primary, replicas = fleet.primary, tuple(fleet.replicas)
            urls[name] = (fleet.url, (primary,), replicas)
            urls[f"{name}, as one"] = (f"redis://127.0.0.1:{primary}", (primary,), replicas)
        runs: Runs = {name: [] for name in urls}
        for _ in range(ROUNDS):
            for name, (url, primaries, replicas) in urls.items():
                runs[name].append(ask_all(url, primaries, replicas, folder))
        return [
            *(figure(key, name, runs) for key in QUESTIONS for name in fleets),
            *costs(runs),
            *shards(fleets["cluster"].url, folder),
            *delayed(single.port, folder),
            *kills("one server, started again", single.url, partial(restart, single), folder),
            *(
                line
                for name, fleet in fleets.items()
                for line in (
                    *kills(NAMES[name], fleet.url, partial(replace, fleet), folder),
                    *commands(NAMES[name], fleet, folder),
                )
            ),
        ]


def ask_all(
    url: str, primaries: Sequence[int], replicas: Sequence[int], folder: Path
) -> dict[str, float]:
    """Run one round on one topology, with a new queue in the slot of PREFIX."""
    prefix = f"{PREFIX.rstrip(':')}-{uuid4().hex[:8]}"
    before = spent(primaries), spent(replicas)
    drained = ask_child(DRAIN, "robust", url, TASKS, prefix, folder=folder)
    after = spent(primaries), spent(replicas)
    return {
        **drained,
        **ask_child(WAITING, "robust", url, prefix, folder=folder),
        "together": ask_child(CALLS, "plain", url, CALLS_ALONE, prefix, folder=folder)["together"],
        **{
            part: (now - then) / TASKS for part, then, now in zip(COSTS, before, after, strict=True)
        },
    }


def spent(ports: Sequence[int]) -> float:
    """Return the processor time that servers have used so far, in microseconds."""
    texts = (str(ask(Address(host="127.0.0.1", port=port), ["INFO", "cpu"])[0]) for port in ports)
    used = (re.findall(r"^used_cpu_(?:sys|user):([\d.]+)", text, re.MULTILINE) for text in texts)
    return 1e6 * sum(float(seconds) for one in used for seconds in one)


def costs(runs: Runs) -> Iterator[Figure]:
    """Compare servers with replicas, addressed as one, with a server that has none."""
    questions = {"drained": QUESTIONS["drained"]} | {
        part: (f"processor time a task, {part}", "µs") for part in COSTS
    }
    for name, words in NAMES.items():
        for key, (what, unit) in questions.items():
            ours, none = [[run[key] for run in runs[of]] for of in (f"{name}, as one", "single")]
            yield Figure(
                what=f"what the replicas cost, {what}: {words}",
                ours=median(ours),
                spread=(min(ours), max(ours)),
                unit=unit,
                beside=median(none) or None,
                beside_spread=(min(none), max(none)),
            )


def figure(key: str, name: str, runs: Runs) -> Figure:
    """Compare the answer to a question with that of the same servers, addressed as one."""
    words, unit = QUESTIONS[key]
    ours, one = [[run[key] for run in runs[of]] for of in (name, f"{name}, as one")]
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


def commands(words: str, fleet: Servers, folder: Path) -> Iterator[Figure]:
    """Freeze and kill the primary, while commands are run one after the other."""
    env = clean_env(
        REDIS_URL=fleet.url,
        REDIS_KEY_PREFIX=PREFIX.rstrip(":"),
        SECRET_KEY="for benchmarks only" * 2,
        ENVIRONMENT="test",
    )
    program = Path(sys.executable).with_name("vibetuner")

    def run(command: str) -> tuple[float, bool]:
        """Return the time of its end, and whether it reached the primary."""
        done = subprocess.run(
            [program, *command.split()],
            cwd=folder,
            env=env,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return time.monotonic(), not re.search("can't be used|not answered", done.stdout)

    for command in COMMANDS:
        run(command)
        late, usual = [], []
        for number in range(KILLS):
            wait_until(fleet.is_whole, seconds=60)
            began = time.monotonic()
            usual.append(run(command)[0] - began)
            old = fleet.primary
            with ThreadPoolExecutor(1) as pool:
                (fleet.kill if number % 2 else fleet.freeze)(old)
                promotion = pool.submit(fleet.wait_for_promotion, old)
                ended, worked = run(command)
                while not (worked and promotion.done()):
                    ended, worked = run(command)
            late.append(ended - promotion.result())
            fleet.thaw(old)
            fleet.kill(old)
            fleet.launch(old)
        yield Figure(
            what=f"from a promotion to the end of `vibetuner {command}`: {words}",
            ours=median(late),
            spread=(min(late), max(late)),
            unit="s",
            aim="5 s",
            held=max(late) <= 5,
            beside=median(usual),
            beside_spread=(min(usual), max(usual)),
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
