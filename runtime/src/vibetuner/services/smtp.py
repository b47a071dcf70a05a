"""Mail through an SMTP server."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from vibetuner.errors import (
    MailError,
    MailRefused,
    ServiceUnavailable,
    SettingsError,
    VibetunerError,
)
from vibetuner.state import request_seconds

logger = logging.getLogger(__name__)

Encryption = Literal["tls", "starttls if offered", "off"]

PORTS = {"smtp": 587, "smtps": 465}
HOST = re.compile(r"[\w.:-]+", re.ASCII)
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
LONGEST_TIMEOUT = 600.0
SHOWN = 200
# Greylisting says: "450 4.2.0 Greylisted, please try again in 300 seconds".
NAMED_TIME = re.compile(
    r"\b(?:in|after|for|retry)\s+(?:(?P<clock>\d{1,2}:\d\d:\d\d)|(?P<number>\d{1,6})\s*"
    r"(?P<unit>s|m|h)(?:ec(?:ond)?s?|in(?:ute)?s?|(?:ou)?rs?)?)\b",
    re.IGNORECASE,
)
UNITS = {"s": 1, "m": 60, "h": 3600}
PERMANENT = 500
REFUSALS: tuple[tuple[type[SMTPException], str, str], ...] = (
    (SMTPAuthenticationError, "the login", "Correct user and password in SMTP_URL"),
    (SMTPSenderRefused, "the sender", "Set MAIL_FROM to an address it may send for"),
    (SMTPRecipientsRefused, "the recipient", "Check the address"),
)


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The mail server that ``SMTP_URL`` names."""

    host: str
    port: int
    encryption: Encryption
    username: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)
    timeout: float = 30.0

    @classmethod
    def from_url(cls, url: str) -> SmtpServer:
        """Parse an SMTP URL; user and password are percent-encoded.

        >>> SmtpServer.from_url("smtp://ann:s%40crt@mail.example.com?timeout=5")
        SmtpServer(host='mail.example.com', port=587, encryption='starttls if offered', timeout=5.0)

        Raises:
            SettingsError: it can't be parsed; the message never quotes it.
        """
        try:
            return cls._parse(url)
        except ValueError:
            raise SettingsError(
                "SMTP_URL: expected smtp://user:password@host:587 or "
                "smtps://user:password@host:465, with ?timeout=<seconds> or ?starttls=off if need "
                "be; percent-encode special characters in user and password"
            ) from None

    @classmethod
    def _parse(cls, url: str) -> SmtpServer:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        host = (parts.hostname or "").encode("idna").decode()
        if not HOST.fullmatch(host) or parts.path.strip("/") or parts.fragment:
            raise ValueError
        starttls, seconds = options.pop("starttls", None), float(options.pop("timeout", "30"))
        if options or parts.scheme not in PORTS or not 0 < seconds <= LONGEST_TIMEOUT:
            raise ValueError
        if starttls is not None and (parts.scheme, starttls) != ("smtp", "off"):
            raise ValueError
        usual: Encryption = "tls" if parts.scheme == "smtps" else "starttls if offered"
        return cls(
            host=host,
            port=parts.port or PORTS[parts.scheme],
            encryption="off" if starttls else usual,
            username=None if parts.username is None else unquote(parts.username, errors="strict"),
            password=unquote(parts.password or "", errors="strict"),
            timeout=seconds,
        )

    @property
    def name(self) -> str:
        """Return host and port, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SmtpMailer:
    """Sends messages, each over a connection of its own."""

    server: SmtpServer
    tls_context: ssl.SSLContext | None = None

    async def send(self, message: EmailMessage) -> None:
        """Deliver to the server; while a request waits, within five seconds.

        Raises:
            ServiceUnavailable: the server does not answer.
            MailRefused: it refuses the login, the sender, the recipient or the message permanently.
            MailError: it refuses temporarily, or its connection can't be trusted.
        """
        sender = message["From"].addresses[0]
        recipients = [address.addr_spec for address in message["To"].addresses]
        async with self._logged_in(sender.domain, request_seconds.get()) as client:
            await client.sendmail(sender.addr_spec, recipients, message.as_bytes())
        logger.info("mail %s accepted by %s", message["Message-ID"], self.server.name)

    async def check(self, domain: str, seconds: float) -> None:
        """Connect, log in and send nothing; raise as :meth:`send` does.

        Args:
            domain: the name with which to greet the server.
            seconds: the longest time that all of it may take.
        """
        async with self._logged_in(domain, seconds):
            pass

    @asynccontextmanager
    async def _logged_in(self, domain: str, limit: float | None) -> AsyncIterator[SMTP]:
        server = self.server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            timeout=server.timeout,
            use_tls=server.encryption == "tls",
            start_tls=None if server.encryption == "starttls if offered" else False,
            tls_context=self.tls_context,
            # Otherwise the greeting would contain this machine's name, and look it up first.
            local_hostname=domain,
        )
        try:
            # aiosmtplib before 5.1.3 leaves it open if connecting is cut off.
            with closing(client):
                async with asyncio.timeout(limit) as deadline, client:
                    try:
                        if server.username is not None:
                            _refuse_to_shout(client, server)
                            await client.login(server.username, server.password)
                        yield client
                    except asyncio.CancelledError:
                        client.close()  # QUIT would wait for its reply
                        raise
        except (SMTPException, OSError) as error:
            if deadline.expired():
                late = TimeoutError(f"no answer within {limit:g} s")
                raise _explained(late, server) from error
            raise _explained(error, server) from error


def _refuse_to_shout(client: SMTP, server: SmtpServer) -> None:
    """Don't send the password unencrypted: somebody in between can hide the STARTTLS offer."""
    encrypted = client.get_transport_info("sslcontext") is not None
    if not encrypted and server.host not in LOOPBACK and server.encryption != "off":
        raise MailError(
            f"Email: {server.name} offers no encryption, so the password was not sent. Use smtps "
            "in SMTP_URL, or add ?starttls=off to it if the network is private"
        )


def _explained(error: SMTPException | OSError, server: SmtpServer) -> VibetunerError:
    said = _said(error, server)
    match error:
        case _ if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
            return MailError(
                f"Email: no trusted connection to {server.name} ({said}). Check SMTP_URL: its host "
                "as the certificate has it, and smtp or smtps; SSL_CERT_FILE names a private "
                "authority"
            )
        case (
            SMTPConnectError()
            | SMTPServerDisconnected()
            | SMTPTimeoutError()
            | SMTPResponseException(code=-1)  # the server does not speak SMTP
            | OSError()
        ):
            # A server that speaks TLS from the start waits for the client's first word.
            is_silent = isinstance(error, SMTPTimeoutError) and server.encryption != "tls"
            smtps = "; if it speaks TLS from the start, begin SMTP_URL with smtps" * is_silent
            return ServiceUnavailable(
                f"Email: {server.name} does not answer ({said}). Start it, or correct SMTP_URL"
                f"{smtps}"
            )
        case _ if 0 < _code(error) < PERMANENT:
            passing = MailError(
                f"Email: {server.name} does not take the message for now ({said}). Try again later"
            )
            passing.retry_after = named_time(said)
            return passing
        case _:
            return _refused(error, said, server)


def _refused(error: SMTPException | OSError, said: str, server: SmtpServer) -> MailError:
    for kind, what, cure in REFUSALS:
        if isinstance(error, kind):
            return MailRefused(f"Email: {server.name} refused {what} ({said}). {cure}")
    if "AUTH extension" in said:  # the words of aiosmtplib, which has no class for it
        return MailError(
            f"Email: {server.name} offers no login on this connection. Use smtps in SMTP_URL, "
            "correct its port, or leave out user and password"
        )
    # An error without a code did not come from the server.
    refused = MailRefused if _code(error) else MailError
    return refused(
        f"Email: {server.name} refused the message ({said}). Check SMTP_URL and the message"
    )


def _code(error: SMTPException | OSError) -> int:
    """Return the code of the server's reply; 0 if there is none."""
    if isinstance(error, SMTPRecipientsRefused):
        error = error.recipients[0]
    return error.code if isinstance(error, SMTPResponseException) else 0


def named_time(text: str) -> timedelta | None:
    """Return the wait that a server asks for, in any common wording; None if it asks for none.

    >>> named_time("450 4.2.0 Greylisted, please try again in 5 minutes")
    datetime.timedelta(seconds=300)
    >>> named_time("451 retry in 00:01:30"), named_time("450 mailbox busy")
    (datetime.timedelta(seconds=90), None)
    """
    if not (found := NAMED_TIME.search(text)):
        return None
    if clock := found["clock"]:
        hours, minutes, seconds = map(int, clock.split(":"))
        return timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timedelta(seconds=int(found["number"]) * UNITS[found["unit"].lower()])


def _said(error: SMTPException | OSError, server: SmtpServer) -> str:
    """Return the message of the server or the network: one line, without an echo of the login."""
    if isinstance(error, SMTPRecipientsRefused):
        error = error.recipients[0]
    text = _network_said(error.__cause__) or str(getattr(error, "message", error))
    text = " ".join(text.split())
    if isinstance(error, SMTPResponseException) and error.code > 0:
        text = f"{error.code} {text}"
    for secret in _spellings(server):
        text = text.replace(secret, "***")
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _network_said(cause: BaseException | None) -> str | None:
    """Return the system's text for a failed connection, such as "Connection refused"."""
    if not isinstance(cause, OSError) or isinstance(cause, ssl.SSLError) or not cause.errno:
        return None
    # asyncio replaces the system's text with its own, except for names that don't resolve.
    return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror


def _spellings(server: SmtpServer) -> list[str]:
    if not server.password:
        return []
    plain = f"\0{server.username}\0{server.password}"
    encoded = [b64encode(text.encode()).decode() for text in (plain, server.password)]
    return [*encoded, server.password]
