"""Mail to people."""

from vibetuner.frontend.templates import render_fragment
from vibetuner.models import UserModel
from vibetuner.services.email import send_email
from vibetuner.tasks.worker import get_worker

worker = get_worker()


@worker.task()
async def send_welcome_email(user_id: str) -> dict[str, str]:
    """Welcome a person who has just signed up."""
    user = await UserModel.get(user_id)
    if user is None:
        return {"status": "skipped"}
    await send_email(
        to_email=user.email,
        subject="Welcome!",
        html_content=render_fragment("mail/welcome.html", user=user),
    )
    return {"status": "sent", "email": user.email}
