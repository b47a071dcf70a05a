"""Outgoing mail.

``SMTP_URL`` names the server. Without it, development and tests keep each message in the
project's ``.vibetuner/outbox/``, and production refuses.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Protocol

from vibetuner.config import Settings, data_dir, get_settings, project_info
from vibetuner.errors import MailError, NotConfigured, ProjectError
from vibetuner.services.message import compose, mailbox
from vibetuner.services.smtp import SmtpMailer, SmtpServer

__all__ = ["ConsoleMailer", "Mailer", "SmtpMailer", "choose_mailer", "send_email"]

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class ConsoleMailer:
    """Stores each message as a file that any mail program opens, and logs its name."""

    outbox: Path
    debug: bool = False

    async def send(self, message: EmailMessage) -> None:
        """Store the message; with ``debug``, also print its text.

        Raises:
            MailError: the folder can't be written to.
        """
        try:
            path = await asyncio.to_thread(_keep, message.as_bytes(), self.outbox)
        except OSError as error:
            raise MailError(
                f"Email: {self.outbox} can't be written to ({error.strerror}). Make it a folder "
                "that you may write to, with room left, or set SMTP_URL"
            ) from error
        logger.info("mail to %s: %s, kept in %s", message["To"], message["Subject"], path)
        if self.debug:
            part = message.get_body(("plain",))
            sys.stdout.write(f"{str(part.get_content()).strip() if part else ''}\n")


def read_outbox(outbox: Path) -> list[EmailMessage]:
    """Return the messages in a folder, the oldest first."""
    files = sorted(outbox.glob("*.eml"))
    return [message_from_bytes(file.read_bytes(), policy=default) for file in files]


async def check_mail(settings: Settings, seconds: float) -> None:
    """Log in to the server of SMTP_URL and send nothing; raise as :func:`send_email` does."""
    sender, mailer = _sender(None, settings), choose_mailer(settings)
    if isinstance(mailer, SmtpMailer):
        await mailer.check(sender.domain, seconds)


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


def _keep(content: bytes, outbox: Path) -> Path:
    """Write under a temporary name first, so that nobody sees an incomplete message."""
    outbox.mkdir(parents=True, exist_ok=True)
    # A test may stop the clock: the second number keeps the order.
    order = f"{time.monotonic_ns():020}-{secrets.token_hex(4)}"
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{order}"
    draft = outbox / f".{name}.draft"
    try:
        draft.write_bytes(content)
        return draft.rename(outbox / f"{name}.eml")
    finally:
        draft.unlink(missing_ok=True)
