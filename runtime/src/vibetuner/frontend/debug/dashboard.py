"""The dashboard: what operators see at ``/debug/tasks``."""

from __future__ import annotations

from fastapi import APIRouter

from vibetuner.frontend.debug import actions, letters, pages, progress

__all__ = ["make_dashboard"]


def make_dashboard() -> APIRouter:
    """Every page and every action below ``/debug/tasks``; the gate stands before them."""
    router = APIRouter(include_in_schema=False)
    for part in (pages.router, progress.router, letters.router, actions.router):
        router.include_router(part, prefix="/debug/tasks")
    return router
