"""Parses REDIS_URL: where the server is, and how to log in."""

from __future__ import annotations

import re
import socket
from binascii import crc_hqx
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from vibetuner.errors import SettingsError, mask_url

if TYPE_CHECKING:  # importing it would slow down a health probe
    from ssl import SSLContext

Command = tuple[str | int, ...]

HOST = r"(?:\[[^\]\s/?#@,]+\]|[^\s:/?#@,\[\]]+)(?::[0-9]*)?"
SERVER = re.compile(
    rf"(?P<scheme>rediss?(?:\+\w+)?)://(?:(?P<user>[^/?#]*)@)?(?P<hosts>{HOST}(?:,{HOST})*)"
    r"(?:/(?P<path>[^?#@]*))?(?:\?(?P<query>[^#]*))?"
)
SOCKET = re.compile(
    r"(?P<scheme>unix)://(?:(?P<user>[^/?#]*)@)?(?P<path>/[^?#]+)(?:\?(?P<query>[^#]*))?"
)
#: Another host and another @ after the first ones, which a password of our form would swallow.
LOGIN_OF_EACH = re.compile(rf"@{HOST},[^/?#]*@")
OPTIONS = ("db", "username", "password")
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
SCHEMES = (
    "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://",
    "redis+cluster://", "rediss+cluster://",
)  # fmt: skip
SLOTS = 16384
MOST_OTHERS = 5
NO_CLUSTER = "cluster support disabled"
UNSERVED = "no node serves the slot of REDIS_KEY_PREFIX"
PORT, SENTINEL_PORT = 6379, 26379
TLS_OPTIONS = (
    "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile",
)  # fmt: skip
LABEL = r"(?!-)[\w-]+(?<!-)"
NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*\.?")
NO_TEXT = re.compile(r"[\ud800-\udfff]")
ENCODE = "Percent-encode what is special in a password: / is %2F, # is %23, ? is %3F, @ is %40"
SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS options of a ``rediss://`` connection, and the certificates that it trusts.

    Args:
        verify: ``none``, ``optional`` or ``required``: whether the server needs a valid
            certificate.
        check_hostname: whether the certificate must be for the host that we connect to.
        ca_certs: a file or folder of authorities, in addition to the system's.
        certfile: the client's certificate.
        keyfile: its key, if that is not in ``certfile``.
    """

    verify: str = "required"
    check_hostname: bool = True
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def context(self) -> SSLContext:
        """Read the files that have changed; raise OSError, which names the option, if it can't.

        Connections share a context: with the system's authorities, each takes a megabyte of memory,
        and ten milliseconds or more in which the event loop does nothing else.
        """
        import ssl  # noqa: PLC0415 - as above

        system = ssl.get_default_verify_paths()
        files = [system.cafile, system.capath, self.ca_certs, self.certfile, self.keyfile]
        if self.ca_certs and Path(self.ca_certs).is_dir():
            files += map(str, Path(self.ca_certs).iterdir())
        return _context(self, frozenset((file, _version(file)) for file in files if file))


@lru_cache(maxsize=4)
def _context(tls: Tls, _versions: frozenset[object]) -> SSLContext:
    import ssl  # noqa: PLC0415 - as above

    context = ssl.create_default_context()
    context.check_hostname = tls.check_hostname and tls.verify != "none"
    context.verify_mode = ssl.VerifyMode[f"CERT_{tls.verify.upper()}"]
    try:
        if tls.ca_certs:
            option = f"ssl_ca_certs={tls.ca_certs}"
            kind = "capath" if Path(tls.ca_certs).is_dir() else "cafile"
            context.load_verify_locations(**{kind: tls.ca_certs})
        if tls.certfile:
            option = f"ssl_certfile={tls.certfile} with ssl_keyfile={tls.keyfile}"
            # With any password, even an empty one, OpenSSL doesn't ask for it on the terminal.
            context.load_cert_chain(tls.certfile, tls.keyfile, password="")
    except OSError as error:
        raise OSError(f"{option} can't be used: {error.strerror or error}") from None
    return context


def _version(file: str) -> tuple[int, ...] | None:
    """Return what differs once a file is written again or replaced."""
    try:
        now = Path(file).stat()
    except OSError:
        return None
    return now.st_ino, now.st_mtime_ns, now.st_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """The Sentinels that know which server is the primary, and how to log in to them."""

    name: str
    hosts: tuple[tuple[str, int], ...]
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def question(self) -> tuple[str, ...]:
        """The command that asks one of them for the primary."""
        return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)

    @property
    def replicas_question(self) -> tuple[str, ...]:
        """The command that asks one of them for the replicas."""
        return ("SENTINEL", "REPLICAS", self.name)

    def read_replicas(self, reply: object, _own: Address) -> set[tuple[str, int]]:
        """Return the replicas that are up and follow their primary, according to a reply.

        A replica that is being promoted disconnects from the Sentinels briefly, and still counts.
        """
        known = (
            dict(zip(map(_text, one[::2]), map(_text, one[1::2]), strict=False))
            for one in (reply if isinstance(reply, list) else ())
        )
        return {
            (one["ip"], int(one["port"]))
            for one in known
            if one.get("master-link-status") == "ok" and "down" not in one["flags"]
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes of a Cluster, and the one slot that holds all keys of a queue.

    Args:
        hosts: the nodes to ask; each of them knows all others.
        prefix: REDIS_KEY_PREFIX, whose hash tag decides on the slot.
    """

    hosts: tuple[tuple[str, int], ...]
    prefix: str
    question = replicas_question = ("CLUSTER", "SLOTS")

    @property
    def slot(self) -> int:
        """The slot of the prefix.

        >>> Cluster(hosts=(), prefix="{shop}:").slot
        3808
        """
        return crc_hqx(hash_tag(self.prefix).encode(), 0) % SLOTS

    def read(self, reply: list[Any], asked: str) -> list[list[tuple[str, int]]]:
        """Parse an answer into lists of nodes: the slot's first; in each list, the primary first.

        The first list is empty if no node serves the slot.

        Args:
            asked: the host that answered, which may not know its own name.
        """
        own: list[tuple[str, int]] = []
        others = []
        for first, last, *nodes in reply:
            places = []
            for host, port, *_ in nodes:
                name = "" if host is None else _text(host)
                places.append((asked if name in {"", "?"} else name, int(port)))
            if first <= self.slot <= last:
                own = places
            else:
                others.append(places)
        return [own, *others]

    def read_replicas(self, reply: object, own: Address) -> set[tuple[str, int]]:
        """Return the replicas of the slot's primary, according to a reply."""
        return set(self.read(reply, own.host)[0][1:]) if isinstance(reply, list) else set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server: a host and port, or the path of a socket, and how to log in.

    With ``sentinels`` and without a host it is whichever server those call the primary; with
    ``cluster``, the primary of the queue's slot.
    """

    host: str = ""
    port: int = PORT
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    sentinels: Sentinels | None = None
    cluster: Cluster | None = None

    @property
    def guides(self) -> Sentinels | Cluster | None:
        """The Sentinels or nodes that know the primary; None if the URL names the server itself."""
        return self.sentinels or self.cluster

    def greeting(self, *, resp3: bool = False) -> Iterator[Command]:
        """Yield the commands that a new connection begins with; :meth:`check` takes the replies."""
        if self.username or self.password:
            yield ("AUTH", self.username or "default", self.password or "")
        if self.db:
            yield ("SELECT", self.db)
        if resp3:
            yield ("HELLO", "3")
        elif self.guides:
            yield ("HELLO",)

    def check(self, reply: Any) -> None:
        """Raise OSError if a server reports that it is no primary, even if guides name it."""
        if isinstance(reply, list):
            reply = dict(zip(reply[::2], reply[1::2], strict=True))
        if self.guides and isinstance(reply, dict):
            role = _text(reply.get("role") or reply.get(b"role"))
            if role != "master":
                if self.cluster:
                    raise OSError(f"{self} is a {role}, though the Cluster calls it the primary")
                raise OSError(f"{self} is a {role}, though Sentinels call it the primary")

    def watchers(self) -> list[Address]:
        """The addresses of the Sentinels, or of the nodes that are asked."""
        if (given := self.sentinels) is not None:
            own = Address(username=given.username, password=given.password, tls=self.tls)
            return [replace(own, host=host, port=port) for host, port in given.hosts]
        hosts = self.cluster.hosts if self.cluster else ()
        return [replace(self, host=host, port=port, cluster=None) for host, port in hosts]

    def named(self, reply: object, asked: Address) -> tuple[str, int] | None:
        """Return host and port of the server that a reply calls the primary."""
        if not isinstance(reply, list):
            return None
        if self.cluster is None:
            return _text(reply[0]), int(reply[1])
        own = self.cluster.read(reply, asked.host)[0]
        return own[0] if own else None

    def elect(self, replies: Mapping[Address, object]) -> Address:
        """Return the server that most of the guides call the primary.

        If two have as many votes, return the first of them.

        Args:
            replies: the reply of each of :meth:`watchers`, or the error instead of one.

        Raises:
            OSError: none of them names one.
        """
        reasons: dict[str, None] = {}
        for watcher, reply in replies.items():
            if self.named(reply, watcher) is not None:
                continue
            if isinstance(reply, BaseException):
                reasons[str(reply)] = None
            else:
                reasons[UNSERVED if self.cluster else "the name is unknown"] = None
        if votes := self._votes(replies):
            ((host, port), _), *_ = votes.most_common(1)
            return replace(self, host=host, port=port)
        if self.cluster and any(NO_CLUSTER in reason for reason in reasons):
            raise OSError("the server is no Cluster. Begin REDIS_URL with redis:// or rediss://")
        why = "; ".join(reasons)
        if self.cluster:
            raise OSError(f"no node of the Cluster names the primary ({why})")
        raise OSError(f"no Sentinel names the primary ({why})")

    def is_elected(self, replies: Mapping[Address, object]) -> bool:
        """Return whether more than half of all guides call the same server the primary."""
        votes = self._votes(replies)
        return self.guides is not None and 2 * max(votes.values(), default=0) > len(
            self.guides.hosts
        )

    def _votes(self, replies: Mapping[Address, object]) -> Counter[tuple[str, int]]:
        named = (self.named(reply, watcher) for watcher, reply in replies.items())
        return Counter(place for place in named if place is not None)

    def others(self, replies: Mapping[Address, object]) -> list[Address]:
        """Return Cluster nodes that can be asked when the nodes of the URL are gone."""
        if self.cluster is None:
            return []
        for watcher, reply in replies.items():
            if isinstance(reply, list):
                own, *shards = self.cluster.read(reply, watcher.host)
                places = dict.fromkeys([*own, *(nodes[0] for nodes in shards if nodes)])
                known = (replace(self, host=h, port=p, cluster=None) for h, p in places)
                return [one for one in known if one not in replies][:MOST_OTHERS]
        return []

    def __str__(self) -> str:
        if self.guides and not self.host:
            hosts = ", ".join(_host_and_port(*place) for place in self.guides.hosts)
            if self.sentinels:
                return f"{self.sentinels.name} (Sentinels {hosts})"
            return f"a Cluster ({hosts})"
        return self.path or _host_and_port(self.host, self.port)


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def hash_tag(key: str) -> str:
    """Return the part of a key that decides on its slot; empty if that is the whole key."""
    found = re.search(r"\{(.*?)\}", key)
    return found[1] if found else ""


def parse_url(url: str, prefix: str = "") -> Address:
    """Parse ``redis://``, ``rediss://`` or ``unix://``; every part may be percent-encoded.

    In ``redis+sentinel://`` and ``rediss+sentinel://`` the hosts are Sentinels, and the path begins
    with the name by which they know the primary. In ``redis+cluster://`` and ``rediss+cluster://``
    the hosts are nodes of a Cluster.

    Args:
        prefix: REDIS_KEY_PREFIX, which decides on the node of a Cluster.

    Raises:
        SettingsError: they are not valid; the message shows no password.

    >>> parse_url("rediss://app:a%2Fb@cache/3").password
    'a/b'
    >>> str(parse_url("unix:///run/redis.sock?db=3"))
    '/run/redis.sock'
    >>> str(parse_url("redis+sentinel://a,b:26380/shop/3"))
    'shop (Sentinels a:26379, b:26380)'
    >>> str(parse_url("redis+cluster://a,[::1]:6380", "{shop}:"))
    'a Cluster (a:6379, [::1]:6380)'
    """
    found = SERVER.fullmatch(url) or SOCKET.fullmatch(url)
    if found is None or NO_TEXT.search(url):
        raise _malformed(url, *_wrong_part(url))
    parts = found.groupdict()
    scheme, _, kind = parts["scheme"].partition("+")
    usual = SENTINEL_PORT if kind == "sentinel" else PORT
    hosts = _hosts(url, parts.get("hosts") or "", usual)
    _check_kind(url, kind, hosts)
    options = _options(url, parts["query"] or "", scheme=scheme, kind=kind)
    username, _, password = (_decode(url, part) for part in (parts["user"] or "").partition(":"))
    is_socket = scheme == "unix"
    path = "" if is_socket else (parts["path"] or "").strip("/")
    sentinels = None
    if kind == "sentinel":
        name, _, path = path.partition("/")
        sentinels = _sentinels(url, name, hosts, options)
    database = options.pop("db", "") or path
    if not re.fullmatch(r"[0-9]{0,9}", database):
        wrong = "too high" if re.fullmatch(r"[0-9]+", database) else "no number"
        raise _refusal(url, f"the database {database[:20]!r} is {wrong}", "Write /0 for the first")
    if kind == "cluster":
        _check_cluster(url, prefix, database)
    host, port = ("", PORT) if is_socket or kind else hosts[0]
    return Address(
        host=host,
        port=port,
        path=_socket(url, parts["path"]) if is_socket else "",
        db=int(database or 0),
        username=options.pop("username", "") or username or None,
        password=options.pop("password", "") or password or None,
        tls=_tls(url, options) if scheme == "rediss" else None,
        sentinels=sentinels,
        cluster=Cluster(hosts=hosts, prefix=prefix) if kind == "cluster" else None,
    )


def _hosts(url: str, text: str, default: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for given in text.split(",") if text else ():
        parts = re.fullmatch(r"(\[.*\]|[^:]*)(?::([0-9]*))?", given)
        assert parts is not None  # noqa: S101 - SERVER has matched
        port = parts[2] or str(default)
        if len(port) > 9 or not 0 < int(port) < 65536:
            usual = f"{'A Sentinel' if default == SENTINEL_PORT else 'Redis'} listens on {default}"
            raise _refusal(url, f"there is no port {port[:20]}", f"{usual} as a rule")
        hosts.append((_host(url, parts[1]), int(port)))
    return tuple(hosts)


def _host(url: str, given: str) -> str:
    """Return a host's name or address; raise SettingsError if it can be neither."""
    host = _decode(url, given.strip("[]"))
    try:
        if given.startswith("["):
            socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
            is_meant = True
        else:
            host.encode("idna")  # the resolver does, and knows no cure
            is_meant = NAME.fullmatch(host) is not None
            if host.rpartition(".")[2].isdecimal():
                socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        is_meant = False
    if is_meant:
        return host
    raise _malformed(
        url,
        "the host is neither a name nor an address",
        "Write it as in redis://cache:6379, redis://10.0.0.7:6379 or redis://[::1]:6379",
    )


def _socket(url: str, path: str) -> str:
    decoded = _decode(url, path)
    if "\0" in decoded:
        raise _malformed(url, "the socket's path holds a NUL byte", "Remove %00")
    return decoded


def _decode(url: str, text: str) -> str:
    """Return a part without its percent-encoding; raise SettingsError if that is not UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _malformed(url, "a percent-encoded part is not UTF-8", "Encode it anew") from None


def _check_kind(url: str, kind: str, hosts: tuple[tuple[str, int], ...]) -> None:
    if kind not in ("", "sentinel", "cluster"):
        raise _refusal(url, "the scheme is unknown", f"There are {', '.join(SCHEMES)}")
    if kind and LOGIN_OF_EACH.search(url):
        cure = "Write them once, before the first host, or write the @ of a password as %40"
        raise _refusal(url, "it has a user and password for several hosts", cure)
    if not kind and len(hosts) > 1:
        cure = "Name one, or begin it with redis+sentinel:// or redis+cluster://"
        raise _refusal(url, "it names several hosts", cure)


def _check_cluster(url: str, prefix: str, database: str) -> None:
    if int(database or 0):
        raise _refusal(url, "a Cluster has the database 0 only", "Leave it out")
    if not hash_tag(prefix):
        name = re.sub(r"[{}:]+", "", prefix) or "shop"
        raise SettingsError(
            f"REDIS_KEY_PREFIX={prefix.rstrip(':')} has no hash tag, so the keys of a task would "
            f"lie on several nodes of the Cluster. Write  REDIS_KEY_PREFIX={{{name}}}"
        )


def _sentinels(
    url: str, name: str, hosts: tuple[tuple[str, int], ...], options: dict[str, str]
) -> Sentinels:
    if not name or name.isdigit():
        cure = "Add the name that the Sentinels know it by:  redis+sentinel://host:26379/mymaster"
        raise _refusal(url, "the primary's name is missing", cure)
    return Sentinels(
        name=unquote(name),
        hosts=hosts,
        username=options.pop("sentinel_username", "") or None,
        password=options.pop("sentinel_password", "") or None,
    )


def _options(url: str, query: str, *, scheme: str, kind: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name in options and name in (*OPTIONS, *SENTINEL_OPTIONS, *TLS_OPTIONS):
            raise _refusal(url, f"{name} is given twice", f"Leave out one {name}=")
        # A plus sign stays a plus sign: in passwords it is more common than a space.
        options[name] = _decode(url, value)
    own = SENTINEL_OPTIONS if kind == "sentinel" else ()
    known = (*OPTIONS, *own, *TLS_OPTIONS)
    for name in options:
        if name in TLS_OPTIONS and scheme != "rediss":
            start = f"rediss{'+' if kind else ''}{kind}://"
            raise _refusal(url, f"{name} is of no use without TLS", f"Begin it with {start}")
        if name in SENTINEL_OPTIONS and not own:
            cure = f"Begin it with {scheme}+sentinel://"
            raise _refusal(url, f"{name} is of no use without Sentinels", cure)
        if name not in known:
            cure = f"There are {', '.join(known)}"
            raise _refusal(url, "an option after the ? is unknown", cure)
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


def _malformed(url: str, reason: str, cure: str) -> SettingsError:
    # Without an @ nobody can tell where a password ends, so hide everything.
    shown = url if "@" in url else re.sub(r"(?s)^([\w+.-]*://)?.*", r"\1***", url)
    return _refusal(shown, reason, cure)


def _wrong_part(url: str) -> tuple[str, str]:
    """Return what is wrong with a malformed URL, and a cure."""
    scheme, _, rest = url.partition("://")
    ahead, _, behind = rest.partition("/")
    hosts = ahead.partition("?")[0].rpartition("@")[2].split(",")
    found = {
        ("the scheme is unknown", f"There are {', '.join(SCHEMES)}"): (
            f"{scheme}://" not in SCHEMES or "://" not in url
        ),
        ("it is not UTF-8", "Write it anew"): NO_TEXT.search(url),
        ("it holds a #", ENCODE): "#" in rest,
        ("the socket's path is missing", "Write it as in unix:///run/redis.sock"): scheme == "unix",
        ("a / or ? stands before the @", ENCODE): (
            "@" in behind or "?" in ahead.rpartition("@")[0]
        ),
        ("a space stands in the host or port", "Remove it"): re.search(r"\s", "".join(hosts)),
        ("a ; stands between the hosts", "Write a comma"): ";" in "".join(hosts),
        ("the host is malformed", f"An IPv6 address stands in brackets: {scheme}://[::1]"): any(
            host.count(":") > 1 or "[" in host or "]" in host for host in hosts
        ),
        ("the host is missing", f"Name it, as in {scheme}://cache:6379. {ENCODE}"): any(
            not host.partition(":")[0] for host in hosts
        ),
        ("the port is no number", f"Write 6379, or leave it out. {ENCODE}"): True,
    }
    return next(part for part, is_wrong in found.items() if is_wrong)


def _refusal(url: str, reason: str, cure: str) -> SettingsError:
    return SettingsError(f"REDIS_URL={mask_url(url)}: {reason}. {cure}")
