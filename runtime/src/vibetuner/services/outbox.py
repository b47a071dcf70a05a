"""The mail outbox: keeps messages as files, in development and tests."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from vibetuner.errors import MailError

__all__ = ["ConsoleMailer", "read_outbox"]

logger = logging.getLogger(__name__)


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
            sys.stdout.write(f"{_text(message)}\n")


def read_outbox(outbox: Path) -> list[EmailMessage]:
    """Return the messages in a folder, the oldest first."""
    files = sorted(outbox.glob("*.eml"))
    return [message_from_bytes(file.read_bytes(), policy=default) for file in files]


def _keep(content: bytes, outbox: Path) -> Path:
    """Write under a temporary name first, so that nobody sees an incomplete message."""
    outbox.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
    draft = outbox / f".{name}.draft"
    try:
        draft.write_bytes(content)
        return draft.rename(outbox / f"{name}.eml")
    finally:
        draft.unlink(missing_ok=True)


def _text(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    return str(part.get_content()).strip() if part else ""
