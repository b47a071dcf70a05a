"""Mail to people."""

from datetime import timedelta

from vibetuner.frontend.templates import render_fragment
from vibetuner.models import UserModel
from vibetuner.services.email import send_email
from vibetuner.tasks.robust import robust_task


# Ten attempts take a quarter of an hour: a mail server that restarts costs nobody a mail.
@robust_task(max_retries=10, timeout=timedelta(minutes=1))
async def send_welcome_email(user_id: str) -> dict[str, str]:
    """Welcome a person who has just signed up."""
    user = await UserModel.get(user_id)
    if user is None:
        return {"status": "skipped"}
    await send_email(
        to_email=user.email,
        subject="Welcome!",
        html_content=render_fragment("mail/welcome.html"),
    )
    return {"status": "sent", "email": user.email}
