"""Outgoing mail.

``SMTP_URL`` names the server. Without it, development and tests keep each message in the
project's ``.vibetuner/outbox/``, and production refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol

from vibetuner.config import Settings, data_dir, get_settings, project_info
from vibetuner.errors import NotConfigured, ProjectError
from vibetuner.services.message import compose, mailbox
from vibetuner.services.outbox import ConsoleMailer
from vibetuner.services.smtp import SmtpMailer, SmtpServer

__all__ = ["ConsoleMailer", "Mailer", "SmtpMailer", "choose_mailer", "send_email"]


async def send_email(  # noqa: PLR0913 - the parts of a message, by name
    *,
    to_email: str,
    subject: str,
    html_content: str,
    text_content: str | None = None,
    from_email: str | None = None,
    reply_to: str | None = None,
    attachments: Sequence[Path] = (),
) -> None:
    """Send one message to one person.

    Addresses may have a name: ``Ann Lee <ann@example.com>``. By default ``text_content`` is derived
    from the HTML, and ``from_email`` is ``MAIL_FROM``. ``attachments`` are files, which keep their
    names.

    Raises:
        NotConfigured: production without SMTP_URL, or without a sender.
        MailRefused: the message is malformed, or the server refuses it permanently (5xx); a robust
            task that raises it gives up.
        MailError: the server refuses it temporarily (4xx), or its connection can't be trusted; a
            robust task is tried again, after the time that the server names.
        ServiceUnavailable: the server does not answer.
        OSError: an attachment can't be read.
    """
    settings = get_settings()
    mailer = choose_mailer(settings)
    contents = [(path.name, await asyncio.to_thread(path.read_bytes)) for path in attachments]
    message = compose(
        sender=_sender(from_email, settings),
        to_email=to_email,
        subject=subject,
        html_content=html_content,
        text_content=text_content,
        reply_to=reply_to,
        attachments=contents,
    )
    await mailer.send(message)


class Mailer(Protocol):
    """Sends a finished message."""

    async def send(self, message: EmailMessage) -> None:
        """Send the message, or raise one of vibetuner's errors."""


def choose_mailer(settings: Settings) -> Mailer:
    """Return the SMTP mailer if SMTP_URL is set; without it, outside production, the outbox."""
    if settings.smtp_url is not None:
        return SmtpMailer(SmtpServer.from_url(settings.smtp_url.get_secret_value()))
    if settings.environment == "production":
        raise NotConfigured(
            "Email: SMTP not configured. Add to .env:  SMTP_URL=smtp://user:password@host:587"
        )
    return ConsoleMailer(data_dir() / "outbox", debug=settings.debug)


def _sender(from_email: str | None, settings: Settings) -> Address:
    if from_email is not None:
        return mailbox("from_email", from_email)
    if settings.mail_from is not None:
        return mailbox("MAIL_FROM", settings.mail_from)
    if settings.environment == "production":
        raise NotConfigured("Email: no sender configured. Add to .env:  MAIL_FROM=team@example.com")
    return mailbox("the project's name", f"{_slug()}@localhost")


def _slug() -> str:
    try:
        return project_info().slug
    except ProjectError:
        return "vibetuner"
