"""Quick start: a task, listed in tune.py, enqueued by a route, run by the worker.

The project that these tests use is in ``project/``, beside them.
"""

from __future__ import annotations

import email
from email import policy
from pathlib import Path
from uuid import uuid4

import httpx2

from tests.processes import Command, Site, wait_until
from vibetuner.tasks.worker import TaskWorker

PROJECT = Path(__file__).parent / "project"


def test_a_signup_answers_at_once_and_the_worker_sends_the_mail(
    site: Site, worker_process: Command
):
    """The route only enqueues the task; the worker's process sends the mail."""
    address = f"ann-{uuid4().hex[:8]}@example.com"

    answer = httpx2.post(f"{site.url}/signup", data={"email": address})

    assert answer.json()["message"] == "Welcome email queued"
    outbox = PROJECT / ".vibetuner" / "outbox"
    wait_until(lambda: letters_to(address, outbox), what=lambda: worker_process.output)
    (letter,) = letters_to(address, outbox)
    assert letter["Subject"] == "Welcome!"


async def test_a_task_is_an_ordinary_function_when_it_is_called(worker: TaskWorker):
    """A direct call of a task runs its function without a queue, as tests of its logic do."""
    from app.tasks.emails import send_welcome_email

    assert await send_welcome_email("0" * 24) == {"status": "skipped"}


def letters_to(address: str, outbox: Path) -> list[email.message.EmailMessage]:
    """Return the mails to ``address`` in the outbox of the development mailer."""
    letters = [
        email.message_from_bytes(file.read_bytes(), policy=policy.default)
        for file in outbox.glob("*.eml")
    ]
    return [letter for letter in letters if letter["To"] == address]
