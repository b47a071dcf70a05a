"""How soon does a webhook's route answer, with 1, 10 and 100 deliveries at a time?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from uuid import uuid4

from lab import Figure, ask_child, clean_env, project, started, workplace
from outbox import DATABASES, database

from vibetuner.embedded import join

ROUNDS = 3
AT_ONCE = (1, 10, 100)
CHILD = Path(__file__).with_name("webhook_child.py")
SECRET = "shared with the sender"
ROUTES = {"webhooks/orders": "`once()`", "placed": "`within()`"}
AIMED = 10
PLACED = '''"""An order that is stored, and a task that is enqueued with it."""

from datetime import UTC, datetime

from fastapi import APIRouter
from vibetuner.resources.sql import open_session

from my_project.frontend.routes.webhooks import OrderPlaced
from my_project.models import Order
from my_project.tasks.emails import send_welcome_email

router = APIRouter()


@router.post("/placed", status_code=202)
async def placed(order: OrderPlaced) -> dict[str, str]:
    values = order.model_dump(exclude={"event"})
    async with open_session() as session:
        session.add(Order(**values, ordered_at=datetime.now(UTC)))
        task = await send_welcome_email.enqueue("nobody").within(session)
        await session.commit()
    return {"task_id": task.id}
'''
NOTE = (
    "A generated project with its example: one web process and one worker by `vibetuner run prod`, "
    "and a client process that keeps this many deliveries in flight, each of an event of its own. "
    "All of them, Redis and the database share this machine.\n\n"
    "`once()` is the project's own `POST /webhooks/orders`, whose orders the worker stores "
    "meanwhile; `within()` is a route that stores the order itself and enqueues a task in the same "
    "transaction. The client measures the times; the rate is that of a hundred at a time."
)

Runs = dict[tuple[str, str, int], list[dict[str, float]]]


def measure(*, beside: bool) -> list[Figure]:
    """Return medians of several rounds, the databases in turn."""
    del beside
    add_route()
    seen: Runs = {}
    with join(workplace() / "services", ["redis"], command="benchmark") as lease:
        for _ in range(ROUNDS):
            for name in DATABASES:
                with database(name) as url:
                    measure_one(name, url, lease.urls["redis"], seen)
    return [figure for key, runs in seen.items() for figure in figures(*key, runs)]


def measure_one(name: str, url: str, redis: str, seen: Runs) -> None:
    """Run one round on one database."""
    settings = {
        "DATABASE_URL": url,
        "ENVIRONMENT": "production",
        "MAIL_FROM": "shop@example.com",
        "MONGODB_URL": "",
        "PYTHONPATH": "src",
        "REDIS_KEY_PREFIX": f"bench-{uuid4().hex[:8]}",
        "REDIS_URL": redis,
        "SECRET_KEY": "for benchmarks only" * 2,
        "WEBHOOK_SECRET": SECRET,
    }
    command = (sys.executable, "-m", "vibetuner")
    migrated = subprocess.run(
        [*command, "db", "upgrade"], cwd=project(), env=clean_env(**settings), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    if migrated.returncode:
        raise SystemExit(migrated.stderr)
    port = str(free_port())
    with (
        started([*command, "run", "prod", "frontend", "--port", port], **settings) as web,
        started([*command, "run", "prod", "worker", "--port", str(free_port())], **settings) as job,
    ):
        for process in (web, job):
            wait_until_ready(process)
        for route in ROUTES:
            for number in AT_ONCE:
                run = ask_child(CHILD, port, route, number, SECRET, folder=workplace())
                seen.setdefault((name, route, number), []).append(run)


def figures(
    database: str, route: str, number: int, runs: list[dict[str, float]]
) -> Iterator[Figure]:
    """Return the lines of one route, with this many deliveries at a time."""
    what = f"{database}, {ROUTES[route]}, {number} at a time"
    for key in ("p50", "p95", "p99"):
        times = [run[key] for run in runs]
        is_aimed = key == "p99" and number == AIMED
        yield Figure(
            what=f"{what}: {key}",
            ours=median(times),
            spread=(min(times), max(times)),
            unit="ms",
            aim="under 50 ms" if is_aimed else "",
            held=median(times) < 50 if is_aimed else None,
        )
    if refused := sum(run["refused"] for run in runs):
        yield Figure(what=f"{what}: answers that were errors", ours=refused, unit="")
    if number == max(AT_ONCE):
        rates = [run["rate"] for run in runs]
        yield Figure(
            what=f"{what}: deliveries",
            ours=median(rates),
            spread=(min(rates), max(rates)),
            unit="deliveries/s",
        )


def add_route() -> None:
    """Add a route that stores an order itself to those of the example."""
    package = project() / "src" / "my_project"
    (package / "frontend" / "routes" / "placed.py").write_text(PLACED, encoding="utf-8")
    tune = package / "tune.py"
    text = tune.read_text(encoding="utf-8")
    text = text.replace("import exports,", "import exports, placed,")
    text = text.replace("webhooks.router]", "webhooks.router, placed.router]")
    tune.write_text(text, encoding="utf-8")


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Wait for the line that reports readiness; read the rest of the output in the background."""
    import threading

    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if " ready" in line:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return
    raise SystemExit("".join(lines))


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
