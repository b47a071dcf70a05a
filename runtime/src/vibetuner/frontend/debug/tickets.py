"""The signed cookie that opens the gate for a while, and its revocation."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from secrets import token_hex

from coredis.exceptions import RedisError
from itsdangerous import BadSignature, URLSafeTimedSerializer

from vibetuner.config import Settings, get_settings
from vibetuner.errors import NotConfigured, VibetunerError, first_line
from vibetuner.redis.keys import Keys
from vibetuner.tasks.payload import signing_keys
from vibetuner.tasks.worker import get_worker

logger = logging.getLogger(__name__)

LIFETIME_SECONDS = 8 * 3600
# The clock of the machine that issued a ticket may be so far ahead.
SKEW = timedelta(minutes=1)
# The time that a page may wait for the reply; the pages about a failing Redis need time, too.
SECONDS = 0.5
AGAIN_SECONDS = 2.0
OUTAGES = (RedisError, OSError, VibetunerError, ExceptionGroup)


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
    if age < -SKEW or left < timedelta(0):
        return None
    return Ticket(str(name), left.total_seconds())


def token_matches(settings: Settings, given: str) -> bool:
    """Return whether ``given`` is DEBUG_ACCESS_TOKEN, in constant time."""
    expected = _token(settings)
    # Digests are compared, so that the time does not even reveal the length.
    same = hmac.compare_digest(_digest(given), _digest(expected))
    return same and bool(expected)


class Revoked:
    """Remembers revoked tickets until they expire: in Redis for all processes, and here.

    While Redis does not answer, its revocations don't count: otherwise the people who look after
    Redis could not open the page that reports the outage. Revocations that could not be written are
    written again until Redis takes them.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._untold: dict[str, float] = {}
        self._telling: asyncio.Task[None] | None = None

    async def add(self, ticket: Ticket) -> None:
        """Revoke a ticket; if Redis does not answer, other processes learn of it later."""
        now = time.monotonic()
        self._until = {name: until for name, until in self._until.items() if until > now}
        self._until[ticket.id] = now + ticket.seconds
        try:
            await self._tell(ticket.id)
        except NotConfigured:
            pass  # no other process shares the tickets
        except OUTAGES as error:
            logger.warning(
                "a ticket to /debug is revoked in this process, and in others once Redis answers: "
                "%s",
                first_line(error),
            )
            self._untold[ticket.id] = self._until[ticket.id]
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell_later())

    async def holds(self, ticket: Ticket) -> bool:
        """Return whether a ticket was revoked."""
        if ticket.id in self._until:
            return True
        try:
            async with asyncio.timeout(SECONDS):
                return bool(await get_worker().redis.exists([_key(ticket.id)]))
        except OUTAGES:
            return False

    async def _tell(self, ticket_id: str) -> None:
        left = self._until[ticket_id] - time.monotonic()
        async with asyncio.timeout(SECONDS):
            await get_worker().redis.set(_key(ticket_id), "1", ex=max(1, int(left) + 1))

    async def _tell_later(self) -> None:
        while self._untold:
            await asyncio.sleep(AGAIN_SECONDS)
            for ticket_id, until in tuple(self._untold.items()):
                with suppress(*OUTAGES):
                    if until > time.monotonic():
                        await self._tell(ticket_id)
                    del self._untold[ticket_id]


@cache
def get_revoked() -> Revoked:
    """Return the revocations that this process remembers."""
    return Revoked()


def _key(ticket_id: str) -> str:
    return Keys(get_settings().redis_key_prefix).revoked(ticket_id)


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
