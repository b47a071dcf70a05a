"""Stores arguments and results: pickled, and signed with a key derived from SECRET_KEY.

Between a pickle and its signature stands the place that it was signed for: its task's id, its queue
and its kind. Data found in another place is refused. Versions before 0.2 signed the pickle alone;
they can read ours, as a pickle ends before the place.
"""

from __future__ import annotations

import hmac
import logging
import pickle
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from functools import cache
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex
from struct import Struct
from typing import Any

from streaq import StreaqError

from vibetuner.config import Settings, data_dir
from vibetuner.errors import PayloadError, first_line
from vibetuner.project import create_once

logger = logging.getLogger(__name__)

SIGNATURE_BYTES = 32
LENGTH_BYTES = 4
LENGTH = Struct(">I").pack
# A worker may have no memory for a larger call; load_messages in lua/queue.lua sends it none.
LARGEST_CALL = 32_000_000
# A server ends a connection that sends it more than 512 MB, however often it is sent.
LARGEST_RESULT = 256_000_000
LONGEST_ERROR = 10_000
# Ends a place. A pickle ends with a full stop, so data without a place does not end like this.
PLACED = b"\x01"
# Enough of a signature to check data, and too little to restore the whole signature.
KEPT_BYTES = 16
#: The part of a signed call that is kept for later: the app can check it, and nobody can run it.
KEPT = slice(None, KEPT_BYTES - SIGNATURE_BYTES)
# The opcode of a pickle that names a class or a function (PEP 3154).
GLOBAL = b"\x93"
BLOCK_BYTES = 64
# The engine's words for data that was signed with another key, or changed; and our cure.
OTHER_KEY = "Invalid signature for task data!"
OTHER_KEY_CURE = "set SECRET_KEY_PREVIOUS to the SECRET_KEY that it was enqueued with"


class ArgumentsGone(StreaqError):  # noqa: N818 - as other names of streaq
    """The result from which a task takes its arguments no longer exists."""


class Kind(StrEnum):
    """The purpose of signed data, as one letter."""

    CALL = "c"
    SCHEDULE = "s"
    RESULT = "r"
    ARGUMENTS = "a"

    __hash__ = str.__hash__  # Enum's is a Python function, and slower than the hashes of a seal


class Codec:
    """Signs data that goes through Redis for its place, and reads it there.

    Args:
        keys: data may be signed with any of them; new data is signed with the first.
        queue: the prefix of the queue's keys.
        accepts_unbound: whether to read data that a version before 0.2 signed, in any place.
    """

    def __init__(self, keys: Sequence[bytes], queue: str, *, accepts_unbound: bool) -> None:
        self._keys = keys
        self._accepts_unbound = accepts_unbound
        self._has_warned = False
        self._ends = {kind: _end_of_place(kind, queue) for kind in Kind}
        inner, outer = _keyed_hashes(keys[0])
        self._begin_inner, self._begin_outer = inner.copy, outer.copy

    # Both methods compute the hashes themselves for speed: a task is sealed and opened four times.

    def seal(self, body: bytes, kind: Kind, name: str) -> bytes:
        """Return the signed form of a pickle for one place."""
        named = name.encode()
        placed = body + named + LENGTH(len(named)) + self._ends[kind]
        inner, outer = self._begin_inner(), self._begin_outer()
        inner.update(placed)
        outer.update(inner.digest())
        return placed + outer.digest()  # type: ignore[no-any-return]

    def open(
        self, data: bytes, kind: Kind | None, name: str = "", *, size: int = SIGNATURE_BYTES
    ) -> bytes:
        """Return the pickle that was signed for a place; without a kind, for any place.

        Raises StreaqError if the signature is not ours, or is for another place.
        """
        placed, signature = data[:-size], data[-size:]
        inner, outer = self._begin_inner(), self._begin_outer()
        inner.update(placed)
        outer.update(inner.digest())
        if not compare_digest(outer.digest()[:size], signature):
            self._check_older_keys(placed, signature)
        if kind is not None:
            try:
                named = name.encode()
            except UnicodeEncodeError as error:  # nobody can have signed this
                raise StreaqError("Task data under an id that is no text!") from error
            place = named + LENGTH(len(named)) + self._ends[kind]
            if placed.endswith(place):
                return placed[: -len(place)]
        return self._open_elsewhere(placed, kind)

    def load(self, data: bytes, kind: Kind | None, name: str = "") -> Any:
        """Read data that was signed for a place: check it, then unpickle it, in this order.

        Raises StreaqError if the data was not signed for this place, or can't be unpickled.
        """
        try:
            body = self.open(data, kind, name)
        except MemoryError as error:
            raise _unreadable(error) from error
        return unpickle(body)

    def open_kept(self, data: bytes, task_id: str) -> bytes:
        """Return the pickle of a call of which the journal or a letter holds :data:`KEPT`.

        Versions before 0.2 kept whole calls.

        Raises StreaqError if the data is not a call of this task that we signed.
        """
        with suppress(StreaqError):
            return self.open(data, Kind.CALL, task_id, size=KEPT_BYTES)
        return self.open(data, Kind.CALL, task_id)

    def _check_older_keys(self, placed: bytes, signature: bytes) -> None:
        for key in self._keys[1:]:
            if compare_digest(hmac.digest(key, placed, "sha256")[: len(signature)], signature):
                return
        raise StreaqError(OTHER_KEY)

    def _open_elsewhere(self, placed: bytes, kind: Kind | None) -> bytes:
        """Return the pickle of data that is signed, but not for the place where it was found.

        During a deploy, a worker of a version before 0.2 copies a schedule's call to a run's id.
        """
        if placed[-1:] != PLACED:
            self._accept_unbound()
            return placed
        body = _without_place(placed)
        if kind is None:
            return body
        if kind is Kind.CALL and self._accepts_unbound:
            call = unpickle(body)
            name = str(call.get("f") if isinstance(call, dict) else "").encode("utf-8", "replace")
            if placed.endswith(name + LENGTH(len(name)) + self._ends[Kind.SCHEDULE]):
                return body
        raise StreaqError("Task data that was signed for another place!")

    def _accept_unbound(self) -> None:
        if not self._accepts_unbound:
            raise StreaqError(
                "Task data of a version before 0.2, which UNBOUND_SIGNATURES=false refuses!"
            )
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "read what a version before 0.2 has signed; set UNBOUND_SIGNATURES=false once "
                "there is no more of it"
            )


def _end_of_place(kind: Kind, queue: str) -> bytes:
    r"""Return what follows a name and its length: the queue, its length, the kind and the mark.

    >>> _end_of_place(Kind.CALL, "streaq:shop")
    b'streaq:shop\x00\x00\x00\x0bc\x01'
    """
    named = queue.encode()
    return named + LENGTH(len(named)) + kind.encode() + PLACED


def _without_place(placed: bytes) -> bytes:
    """Return the pickle before a place, whichever place it is.

    >>> _without_place(b"pickle." + b"id" + LENGTH(2) + _end_of_place(Kind.CALL, "streaq:shop"))
    b'pickle.'
    """
    at = len(placed) - len("c") - len(PLACED)
    for _ in ("queue", "name"):
        at -= LENGTH_BYTES
        at -= int.from_bytes(placed[at : at + LENGTH_BYTES])
    return placed[:at]


def unpickle(body: bytes) -> Any:
    """Unpickle data of :func:`dump`, once its signature is checked."""
    try:
        return pickle.loads(body)  # noqa: S301 - signed by us
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> StreaqError:
    return StreaqError(f"Failed to deserialize data ({type(error).__name__})!")


def signing_keys(settings: Settings) -> list[bytes]:
    """Return the keys that payloads may be signed with; new ones are signed with the first.

    The keys are derived from SECRET_KEY and SECRET_KEY_PREVIOUS. Without a SECRET_KEY, which
    production requires, a key in the project's data folder is used.
    """
    secrets = [settings.secret_key, settings.secret_key_previous]
    given = [secret.get_secret_value() for secret in secrets if secret is not None]
    purpose, used = b"vibetuner task payloads", given or [_local_secret()]
    return [hmac.digest(secret.encode(), purpose, "sha256") for secret in used]


@cache
def _keyed_hashes(key: bytes) -> tuple[Any, Any]:
    """Return the two hashes of HMAC (RFC 2104) with SHA-256, as far as they depend on the key.

    :func:`hmac.digest` looks the algorithm up at each call, which takes longer than the rest.
    """
    block = sha256(key).digest() if len(key) > BLOCK_BYTES else key
    block = block.ljust(BLOCK_BYTES, b"\0")
    return sha256(bytes(b ^ 0x36 for b in block)), sha256(bytes(b ^ 0x5C for b in block))


def _local_secret() -> str:
    path = data_dir() / "signing-key"
    if not path.exists():
        create_once(path, token_hex(32))
    return path.read_text(encoding="ascii")


def dump(data: Any) -> bytes:
    """Pickle data for the engine to store.

    A task's arguments must be storable. A result or an exception that isn't, or has more than
    256 MB, becomes a :class:`PayloadError` result: the task has run, and its end must be recorded.

    Raises PayloadError if an argument can't be stored, and the message names it; or all have more
    than 32 MB.
    """
    try:
        raw = pickle.dumps(data)
        if GLOBAL in raw and isinstance(data, dict) and "r" in data:
            # Some objects can be pickled but not unpickled; find out here and not in the reader. A
            # pickle without a class can always be read.
            pickle.loads(raw)  # noqa: S301 - pickled just above
        if len(raw) > LARGEST_RESULT:
            problem = f"{len(raw):,} bytes, and {LARGEST_RESULT:,} are allowed"
            raise ValueError(problem)  # noqa: TRY301 - the reason why it can't be stored
    except BaseException as error:  # noqa: BLE001 - pickling runs anybody's code, even sys.exit()
        if isinstance(data, dict) and "r" in data:
            return pickle.dumps({**data, "s": False, "r": _unstorable(data, error)})
        if isinstance(data, dict) and "a" in data:
            raise PayloadError(_unstorable_argument(data)) from None
        raise PayloadError(f"A result can't be stored: {first_line(error)}") from None
    if len(raw) > LARGEST_CALL and isinstance(data, dict) and "a" in data:
        raise PayloadError(
            f"{data['f']}: its arguments have {len(raw):,} bytes, and {LARGEST_CALL:,} are "
            "allowed. Store them, and pass an id"
        )
    return raw


def _unstorable(data: dict[str, Any], error: BaseException) -> PayloadError:
    outcome = data["r"]
    if isinstance(outcome, BaseException):
        return PayloadError(f"{type(outcome).__name__}: {_text(outcome)[:LONGEST_ERROR]}")
    return PayloadError(
        f"{data['f']}: its result, a {type(outcome).__name__}, can't be stored "
        f"({first_line(error)}). Return plain data"
    )


def _text(error: BaseException) -> str:
    """Return the text of an error; an error in its __str__ must not lose the result."""
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - as above
        return f"a {type(error).__name__} without a readable message"


def _unstorable_argument(data: dict[str, Any]) -> str:
    named = {f"argument {place}": value for place, value in enumerate(data["a"], start=1)}
    named |= {f"argument {name}=": value for name, value in data["k"].items()}
    for name, value in named.items():
        try:
            pickle.dumps(value)
        except BaseException as error:  # noqa: BLE001 - as above
            return (
                f"{data['f']}: {name}, a {type(value).__name__}, can't be stored "
                f"({first_line(error)}). "
                "Pass plain data, such as an id, and load the rest in the task"
            )
    return f"{data['f']}: its arguments can't be stored. Pass plain data"
