from vibetuner.models import UserModel
from vibetuner.services.email import send_email
from vibetuner.tasks.worker import get_worker

worker = get_worker()


@worker.task()
async def send_welcome_email(user_id: str) -> dict[str, str]:
    """Send the welcome mail to a new user."""
    user = await UserModel.get(user_id)
    if user is None:
        return {"status": "skipped"}
    await send_email(
        to_email=user.email, subject="Welcome!", html_content="<h1>Good to have you</h1>"
    )
    return {"status": "sent", "email": user.email}
