"""Is this process alive?"""

from __future__ import annotations

from fastapi import APIRouter

from vibetuner.project import project_info

__all__ = ["router"]

router = APIRouter()


@router.get("/health", include_in_schema=False)
async def health() -> dict[str, str]:
    """Answers as long as the process can answer."""
    project = project_info()
    return {"status": "ok", "project": project.slug, "version": project.version}
