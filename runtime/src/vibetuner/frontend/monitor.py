"""The page beside a worker: what it runs, and how it has fared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from vibetuner.tasks.worker import TaskWorker

__all__ = ["create_monitor"]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker at one moment."""

    worker: str
    queue: str
    concurrency: int
    running: int
    completed: int
    failed: int
    retried: int
    aborted: int
    tasks: list[str]


def create_monitor(worker: TaskWorker) -> FastAPI:
    """An app with a page for people at ``/`` and the same as JSON at ``/health``."""
    app = FastAPI(title="worker monitor", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **asdict(observe(worker))}

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(observe(worker)), headers={"Cache-Control": "no-store"})

    return app


def observe(worker: TaskWorker) -> WorkerState:
    """What ``worker`` says of itself right now."""
    counters = worker.counters
    return WorkerState(
        worker=worker.id,
        queue=worker.queue_name,
        concurrency=worker.concurrency,
        running=worker.running(),
        completed=counters.get("completed", 0),
        failed=counters.get("failed", 0),
        retried=counters.get("retried", 0),
        aborted=counters.get("aborted", 0),
        tasks=sorted(worker.registry),
    )


def _page(state: WorkerState) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}<td>{escape(_shown(value))}"
        for name, value in asdict(state).items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>"
        "<meta name=viewport content='width=device-width'><meta name=color-scheme "
        f"content='light dark'><title>Worker {escape(state.worker)}</title>"
        f"<h1>Worker {escape(state.worker)}</h1><table>{rows}</table></html>"
    )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
