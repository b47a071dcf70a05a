from typing import Annotated

from fastapi import APIRouter, Form

from app.tasks.emails import send_welcome_email
from vibetuner.models import UserModel

router = APIRouter()


@router.post("/signup")
async def signup(email: Annotated[str, Form()]) -> dict[str, str]:
    user = await UserModel(email=email).insert()
    task = await send_welcome_email.enqueue(str(user.id))
    return {"message": "Welcome email queued", "task_id": task.id}
