"""Stores arguments and results: pickled, and signed with a key that is derived from SECRET_KEY."""

from __future__ import annotations

import hmac
import os
import pickle
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from secrets import token_hex
from typing import Any

from streaq import StreaqError

from vibetuner.config import Settings, data_dir
from vibetuner.errors import PayloadError

__all__ = ["ArgumentsGone", "Codec", "dump", "read", "sign", "signing_keys"]

SIGNATURE_BYTES = 32
# The opcode of a pickle that names a class or a function (PEP 3154).
GLOBAL = b"\x93"
BLOCK_BYTES = 64


class ArgumentsGone(StreaqError):  # noqa: N818 - as the engine's own kin
    """The result that was to be a task's arguments is not there any more."""


class Codec:
    """Signs and reads what goes through Redis.

    Args:
        keys: what is stored may be signed with any of them, and is signed with the first.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def dump(self, data: Any) -> bytes:
        """Store data; raises PayloadError, which names what can't be stored."""
        body = dump(data)
        return body + sign(self._keys[0], body)

    def sign(self, body: bytes) -> bytes:
        """Return what is stored for a pickle."""
        return body + sign(self._keys[0], body)

    def load(self, data: bytes) -> Any:
        """Read stored data; raises StreaqError when its signature is none of ours."""
        return read(data, self._keys)


def signing_keys(settings: Settings) -> list[bytes]:
    """The keys that payloads may be signed with; new ones are signed with the first.

    They are derived from SECRET_KEY and SECRET_KEY_PREVIOUS. Without a SECRET_KEY, which
    production does not allow, the project's data folder keeps one.
    """
    secrets = [settings.secret_key, settings.secret_key_previous]
    given = [secret.get_secret_value() for secret in secrets if secret is not None]
    return [_derive(secret) for secret in given or [_local_secret()]]


def read(data: bytes, keys: Sequence[bytes]) -> Any:
    """Check the signature, then unpickle; never the other way round.

    Raises:
        StreaqError: the signature is none of ours, or what is signed can't be unpickled.
    """
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    for key in keys:
        if hmac.compare_digest(sign(key, body), signature):
            break
    else:
        raise StreaqError("Invalid signature for task data!")
    try:
        return pickle.loads(body)  # noqa: S301 - signed by us
    except Exception as error:
        raise StreaqError(f"Failed to deserialize data ({type(error).__name__})!") from error


def sign(key: bytes, body: bytes) -> bytes:
    """The signature that the engine appends: HMAC (RFC 2104) with SHA-256.

    Its two hashes are begun once for each key: :func:`hmac.digest` looks the algorithm up at each
    call, which costs a worker more than the rest of it.

    >>> sign(b"key", b"what is stored") == hmac.digest(b"key", b"what is stored", "sha256")
    True
    """
    begun_inner, begun_outer = _begun_hashes(key)
    inner, outer = begun_inner.copy(), begun_outer.copy()
    inner.update(body)
    outer.update(inner.digest())
    signature: bytes = outer.digest()
    return signature


@cache
def _begun_hashes(key: bytes) -> tuple[Any, Any]:
    block = sha256(key).digest() if len(key) > BLOCK_BYTES else key
    block = block.ljust(BLOCK_BYTES, b"\0")
    return sha256(bytes(b ^ 0x36 for b in block)), sha256(bytes(b ^ 0x5C for b in block))


def _derive(secret: str) -> bytes:
    return hmac.digest(secret.encode(), b"vibetuner task payloads", "sha256")


def _local_secret() -> str:
    path = data_dir() / "signing-key"
    draft = path.with_name(f"{path.name}.{token_hex(4)}")
    if not path.exists():
        draft.touch(mode=0o600)
        draft.write_text(token_hex(32), encoding="ascii")
        with suppress(FileExistsError):
            os.link(draft, path)  # whoever comes first wins, whole
        draft.unlink()
    return path.read_text(encoding="ascii")


def dump(data: Any) -> bytes:
    """Serialise what the engine stores.

    A task's arguments must be storable. A result or an exception that isn't becomes a
    :class:`PayloadError` result: the task has run, and its end must be recorded.

    Raises:
        PayloadError: an argument can't be stored; the message names it.
    """
    try:
        raw = pickle.dumps(data)
        if GLOBAL in raw and isinstance(data, dict) and "r" in data:
            # Some objects can be pickled and not unpickled; the reader must not pay for that.
            # Without a class in it, a pickle can be read.
            pickle.loads(raw)  # noqa: S301 - what this process wrote a line above
    except Exception as error:  # noqa: BLE001 - pickling runs anybody's code
        if isinstance(data, dict) and "r" in data:
            return pickle.dumps({**data, "s": False, "r": _unstorable(data, error)})
        if isinstance(data, dict) and "a" in data:
            raise PayloadError(_blame(data)) from None
        raise PayloadError(f"A result can't be stored: {_text(error)}") from None
    return raw


def _unstorable(data: dict[str, Any], error: Exception) -> PayloadError:
    outcome = data["r"]
    if isinstance(outcome, BaseException):
        return PayloadError(f"{type(outcome).__name__}: {_text(outcome)}")
    return PayloadError(
        f"{data['f']}: its result, a {type(outcome).__name__}, can't be stored ({_text(error)}). "
        "Return plain data"
    )


def _text(error: BaseException) -> str:
    """What an error says; somebody's __str__ must not cost the result."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - as above
        return f"a {type(error).__name__} that says nothing"


def _blame(data: dict[str, Any]) -> str:
    named = {f"argument {place}": value for place, value in enumerate(data["a"], start=1)}
    named |= {f"argument {name}=": value for name, value in data["k"].items()}
    for name, value in named.items():
        try:
            pickle.dumps(value)
        except Exception as error:  # noqa: BLE001 - as above
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return (
                f"{data['f']}: {name}, a {type(value).__name__}, can't be stored ({reason}). "
                "Pass plain data, such as an id, and load the rest in the task"
            )
    return f"{data['f']}: its arguments can't be stored. Pass plain data"
