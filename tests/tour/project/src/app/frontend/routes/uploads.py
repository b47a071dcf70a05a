from fastapi import APIRouter, HTTPException, Request

from app.tasks.uploads import process_upload
from vibetuner.sse import sse_endpoint

router = APIRouter()


@router.post("/uploads/{user_id}")
async def upload(user_id: str) -> dict[str, str]:
    task = await process_upload.enqueue("photo.jpg", user_id)
    return {"task_id": task.id}


@sse_endpoint("/events/upload/{user_id}", router=router)
async def upload_stream(request: Request, user_id: str) -> str:
    """Stream the progress of this person's uploads."""
    if user_id == "stranger":
        raise HTTPException(403, "these are not your uploads")
    return f"upload:{user_id}"
