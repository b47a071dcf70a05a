"""REDIS_URL, read in one place: where the server is, and how to be let in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vibetuner.env_file import mask_url
from vibetuner.errors import SettingsError

if TYPE_CHECKING:  # costs a health probe some of its start-up time
    from ssl import SSLContext

__all__ = ["Address", "Tls", "parse_url"]

Command = tuple[str | int, ...]

SERVER = re.compile(
    r"(?P<scheme>rediss?)://(?:(?P<user>[^/?#]*)@)?"
    r"(?P<host>\[[^\]\s/?#@]+\]|[^\s:/?#@\[\]]+)(?::(?P<port>[0-9]*))?"
    r"(?:/(?P<path>[^?#@]*))?(?:\?(?P<query>[^#]*))?"
)
SOCKET = re.compile(
    r"(?P<scheme>unix)://(?:(?P<user>[^/?#]*)@)?(?P<path>/[^?#]+)(?:\?(?P<query>[^#]*))?"
)
OPTIONS = ("db", "username", "password")
TLS_OPTIONS = (
    "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile",
)  # fmt: skip
SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a ``rediss://`` connection is encrypted, and whom it trusts.

    Args:
        verify: ``none``, ``optional`` or ``required``, of the server's certificate.
        check_hostname: whether the certificate must be the host's own.
        ca_certs: a file or a folder of authorities, beside the system's.
        certfile: the client's certificate.
        keyfile: its key, if that is not in ``certfile``.
    """

    verify: str = "required"
    check_hostname: bool = True
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def context(self) -> SSLContext:
        """Read the files; raises OSError, which names the option, where one can't be used."""
        import ssl  # noqa: PLC0415 - as above

        context = ssl.create_default_context()
        context.check_hostname = self.check_hostname and self.verify != "none"
        context.verify_mode = ssl.VerifyMode[f"CERT_{self.verify.upper()}"]
        try:
            if self.ca_certs:
                option = f"ssl_ca_certs={self.ca_certs}"
                kind = "capath" if Path(self.ca_certs).is_dir() else "cafile"
                context.load_verify_locations(**{kind: self.ca_certs})
            if self.certfile:
                option = f"ssl_certfile={self.certfile} with ssl_keyfile={self.keyfile}"
                # With a password, even an empty one, nobody is asked for it on the terminal.
                context.load_cert_chain(self.certfile, self.keyfile, password="")
        except OSError as error:
            raise OSError(f"{option} can't be used: {error.strerror or error}") from None
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server: a host and port, or the path of a socket; with what it asks of a client."""

    host: str = ""
    port: int = 6379
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def greeting(self) -> Iterator[Command]:
        """The commands that a new connection begins with."""
        if self.username or self.password:
            yield ("AUTH", self.username or "default", self.password or "")
        if self.db:
            yield ("SELECT", self.db)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Read ``redis://``, ``rediss://`` or ``unix://``; every part may be percent-encoded.

    Raises:
        SettingsError: it can't be meant; the message shows no password.

    >>> parse_url("rediss://app:a%2Fb@cache/3").password
    'a/b'
    >>> str(parse_url("unix:///run/redis.sock?db=3"))
    '/run/redis.sock'
    """
    found = SERVER.fullmatch(url) or SOCKET.fullmatch(url)
    if found is None:
        raise _malformed(url)
    parts = found.groupdict()
    options = _options(url, parts["query"] or "", is_tls=parts["scheme"] == "rediss")
    username, _, password = (parts["user"] or "").partition(":")
    is_socket = parts["scheme"] == "unix"
    database = options.pop("db", "") or ("" if is_socket else (parts["path"] or "").strip("/"))
    if not re.fullmatch(r"[0-9]*", database):
        raise _refusal(url, f"the database {database!r} is no number", "Write /0 for the first")
    port = int(parts.get("port") or 6379)
    if not 0 < port < 65536:
        raise _refusal(url, f"there is no port {port}", "Redis listens on 6379 as a rule")
    return Address(
        host="" if is_socket else unquote(parts["host"].strip("[]")),
        port=port,
        path=unquote(parts["path"]) if is_socket else "",
        db=int(database or 0),
        username=options.pop("username", "") or unquote(username) or None,
        password=options.pop("password", "") or unquote(password) or None,
        tls=_tls(url, options) if parts["scheme"] == "rediss" else None,
    )


def _options(url: str, query: str, *, is_tls: bool) -> dict[str, str]:
    pairs = (part.partition("=") for part in query.split("&") if part)
    # A plus sign stays one: passwords hold it more often than a blank.
    options = {name: unquote(value) for name, _, value in pairs}
    for name in options:
        if name in TLS_OPTIONS and not is_tls:
            raise _refusal(url, f"{name} is of no use without TLS", "Begin it with rediss://")
        if name not in (*OPTIONS, *TLS_OPTIONS):
            known = ", ".join((*OPTIONS, *TLS_OPTIONS))
            raise _refusal(url, "an option after the ? is unknown", f"There are {known}")
    return options


def _tls(url: str, options: dict[str, str]) -> Tls:
    verify = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if verify not in ("none", "optional", "required"):
        raise _refusal(url, "ssl_cert_reqs is unknown", "It is none, optional or required")
    check = SWITCH.get(options.get("ssl_check_hostname", "true").lower())
    if check is None:
        raise _refusal(url, "ssl_check_hostname is unknown", "It is true or false")
    certfile, keyfile = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if keyfile and not certfile:
        raise _refusal(url, "ssl_keyfile has no certificate", "Add ssl_certfile")
    return Tls(
        verify=verify,
        check_hostname=check,
        ca_certs=options.get("ssl_ca_certs"),
        certfile=certfile,
        keyfile=keyfile,
    )


def _malformed(url: str) -> SettingsError:
    # Without an @ it can't be told where a password ends, so that nothing of it is shown.
    shown = url if "@" in url else re.sub(r"(?s)(://|^).*", r"\1***", url, count=1)
    return _refusal(
        shown,
        "the URL is malformed",
        "Name the host, and percent-encode what is special in a password: / is %2F, # is %23, "
        "? is %3F, @ is %40",
    )


def _refusal(url: str, reason: str, cure: str) -> SettingsError:
    return SettingsError(f"REDIS_URL={mask_url(url)}: {reason}. {cure}")
