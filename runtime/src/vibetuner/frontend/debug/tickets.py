"""The signed cookie that opens the gate for a while."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from itsdangerous import BadSignature, URLSafeTimedSerializer

from vibetuner.config import Settings
from vibetuner.tasks.payload import signing_keys

__all__ = ["LIFETIME_SECONDS", "Ticket", "issue", "read", "token_matches"]

LIFETIME_SECONDS = 8 * 3600


@dataclass(frozen=True, slots=True)
class Ticket:
    """A valid ticket, and the seconds until it expires."""

    id: str
    seconds: float


def issue(settings: Settings) -> str:
    """Return a new ticket; :func:`read` accepts it for eight hours."""
    return _signer(settings).dumps(token_hex(8))


def read(settings: Settings, ticket: str, now: datetime | None = None) -> Ticket | None:
    """Return a ticket if this project's key signed it less than eight hours ago, else None.

    A change of SECRET_KEY or of DEBUG_ACCESS_TOKEN ends every ticket; without a
    DEBUG_ACCESS_TOKEN none is valid.
    """
    if not _token(settings):
        return None
    try:
        name, signed = _signer(settings).loads(ticket, return_timestamp=True)
    except BadSignature:
        return None
    age: timedelta = (now or datetime.now(UTC)) - signed
    left = timedelta(seconds=LIFETIME_SECONDS) - age
    if age < timedelta(0) or left < timedelta(0):
        return None
    return Ticket(str(name), left.total_seconds())


def token_matches(settings: Settings, given: str) -> bool:
    """Return whether ``given`` is DEBUG_ACCESS_TOKEN, in constant time."""
    expected = _token(settings)
    # Digests are compared, so that the time does not even reveal the length.
    same = hmac.compare_digest(_digest(given), _digest(expected))
    return same and bool(expected)


def _signer(settings: Settings) -> URLSafeTimedSerializer:
    # Only the newest key: with SECRET_KEY_PREVIOUS, a ticket would outlive the change.
    purpose = b"vibetuner debug ticket\0" + _digest(_token(settings))
    key = hmac.digest(signing_keys(settings)[0], purpose, "sha256")
    return URLSafeTimedSerializer(
        key,
        salt=settings.queue_name,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _token(settings: Settings) -> str:
    token = settings.debug_access_token
    return token.get_secret_value() if token else ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
