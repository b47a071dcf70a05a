"""A message that is safe to send: checked addresses, one-line headers, text and HTML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import make_msgid
from mimetypes import guess_type

from email_validator import EmailNotValidError, validate_email

from vibetuner.errors import MailRefused
from vibetuner.services.plaintext import html_to_text

# Seven bits throughout: every server passes it on unchanged, so the stored file is what was sent.
POLICY = SMTP.clone(cte_type="7bit")

# Control characters, line and paragraph separators, lone surrogates.
UNSAFE_IN_HEADER = frozenset(("Cc", "Cs", "Zl", "Zp"))
# The validator has no option for these names; it still checks the rest of the address.
LOCAL_DOMAIN = re.compile(r"[@.](localhost|local|test)$", re.IGNORECASE)
STAND_IN = ".example.com"
NAME_AND_ADDRESS = re.compile(r"\s*(?P<name>[^<>]*?)\s*<(?P<address>[^<>]*)>\s*")


def compose(  # noqa: PLR0913 - the parts of a message, by name
    *,
    sender: Address,
    to_email: str,
    subject: str,
    html_content: str,
    text_content: str | None = None,
    reply_to: str | None = None,
    attachments: Sequence[tuple[str, bytes]] = (),
) -> EmailMessage:
    """Build a multipart/alternative message; with attachments, inside a multipart/mixed one.

    Raises MailRefused if a header holds a control character, or an address is malformed.
    """
    message = EmailMessage(POLICY)
    message["Subject"] = one_line("subject", subject)
    message["From"] = sender
    message["To"] = mailbox("to_email", to_email)
    if reply_to is not None:
        message["Reply-To"] = mailbox("reply_to", reply_to)
    message["Date"] = datetime.now(UTC)
    # Without a domain, make_msgid would use this machine's name.
    message["Message-ID"] = make_msgid(domain=sender.domain)
    text = html_to_text(html_content) if text_content is None else text_content
    try:
        message.set_content(text)
        message.add_alternative(html_content, subtype="html")
    except UnicodeEncodeError:
        raise MailRefused(
            "Email: the content holds half a character (a lone surrogate). Decode it as UTF-8"
        ) from None
    for name, content in attachments:
        maintype, subtype = _type_of(name)
        filename = one_line("attachments", name)
        message.add_attachment(content, maintype=maintype, subtype=subtype, filename=filename)
    return message


def _type_of(name: str) -> tuple[str, str]:
    """Return the type of a file for a part in Base64.

    >>> _type_of("report.pdf"), _type_of("report.csv.gz"), _type_of("answer.eml")
    (('application', 'pdf'), ('application', 'octet-stream'), ('application', 'octet-stream'))
    """
    guessed, encoding = guess_type(name)
    maintype, _, subtype = (guessed or "").partition("/")
    # Base64 is not allowed for a message or a multipart, so its content would not be decoded; a
    # compressed file is not of the type that it has once it is decompressed.
    if not subtype or encoding or maintype in {"message", "multipart"}:
        return "application", "octet-stream"
    return maintype, subtype


def mailbox(field: str, value: str) -> Address:
    """Check ``name@example.com`` or ``Name <name@example.com>``; ``field`` names it in errors."""
    match = NAME_AND_ADDRESS.fullmatch(one_line(field, value))
    name, address = (match["name"], match["address"]) if match else ("", value)
    try:
        return Address(display_name=_unquoted(name), addr_spec=_in_ascii(address.strip()))
    except EmailNotValidError as error:
        raise MailRefused(
            f"Email: {field} is not an address: {error} Pass one such as name@example.com"
        ) from None


def one_line(field: str, value: str) -> str:
    """Refuse text that could end a header line and begin another."""
    if any(unicodedata.category(character) in UNSAFE_IN_HEADER for character in value):
        raise MailRefused(
            f"Email: {field} holds a line break or control character. Remove it: it could smuggle "
            "in headers"
        )
    # EmailMessage decodes "=?utf-8?q?=0A?=", and would then write the line break.
    if "=?" in value:
        raise MailRefused(
            f"Email: {field} holds '=?', which begins an encoded word. Pass plain text"
        )
    return value


def _in_ascii(address: str) -> str:
    """Return the address in ASCII; names of this machine or network pass, too."""
    stand_in = STAND_IN if LOCAL_DOMAIN.search(address) else ""
    checked = validate_email(
        address + stand_in, allow_smtputf8=False, check_deliverability=False,
        globally_deliverable=False,
    )  # fmt: skip
    return (checked.ascii_email or "").removesuffix(stand_in)


def _unquoted(name: str) -> str:
    if len(name) > 1 and name[0] == name[-1] == '"':
        return re.sub(r"\\(.)", r"\1", name[1:-1])
    return name
