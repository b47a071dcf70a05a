"""All errors of vibetuner, as one tree.

::

    VibetunerError
    ├── ProjectError         no project here, or its tune.py is missing, broken or wrong
    ├── SettingsError        an environment variable holds a wrong value
    ├── NotConfigured        a capability is used whose setting is empty
    ├── ServiceUnavailable   an outside system does not answer, or refuses
    │   └── RedisFull        Redis has no memory left for new tasks and events
    ├── NotDurable           a durable enqueue is not confirmed: a crash or failover may lose it
    ├── WrongEventLoop       a connection is used in another loop or process (also a RuntimeError)
    ├── PayloadError         a task's arguments or result can't be stored
    ├── DeadLetterError      a dead letter can't be retried or discarded
    │   └── DeadLetterNotFound   no letter has this id (also a LookupError)
    ├── TaskError            an enqueued task can't be aborted or enqueued again
    │   ├── TaskExists       a task of this id exists, or its result is kept
    │   └── TaskNotFound     no task has this id (also a LookupError)
    ├── MailError            a message was not accepted, for now or until a setting is corrected
    │   └── MailRefused      it is malformed, or refused for good (also a GiveUp)
    └── CommandError         a command can't do what was asked

    GiveUp                   raised by a task that must not be tried again; no VibetunerError

A function's docstring names the errors that it raises. SettingsError comes from the first function
that reads the settings, and ProjectError from the first that needs the project, so docstrings name
these only where they matter.

Every message is one line that names the problem and the cure; the command line prints it and exits
with the class's ``exit_code``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.requests import HTTPConnection

__all__ = [
    "CommandError",
    "DeadLetterError",
    "DeadLetterNotFound",
    "ErrorContext",
    "GiveUp",
    "MailError",
    "MailRefused",
    "NotConfigured",
    "NotDurable",
    "PayloadError",
    "ProjectError",
    "RedisFull",
    "ServiceUnavailable",
    "SettingsError",
    "TaskError",
    "TaskExists",
    "TaskNotFound",
    "VibetunerError",
    "WrongEventLoop",
    "first_line",
    "mask_secrets",
    "suggest",
]

# Up to the last @ of a possible password. A port before a path, as in host:443/@name, is not one.
# The words of our own examples stay: they show where a password goes.
USERINFO = re.compile(
    r"""(?<=://)(?!user:password@[^\s@]*(?:\s|$))(?:[^\s<>"']*:(?!\d+/)[^\s<>"']*|[^\s<>"'/]+)@"""
)
NAME = r"(?:\w+[_-])?(?:password|passwd|pwd|token|secret|(?:api|access|private|secret)[_-]?key)"
# In URLs and settings; in a dict or in JSON, unless masked by inspect/shown.py; in a header.
SECRET_VALUE = re.compile(
    rf"""(?i)((?:(?<=[?&;\s"'-])|^){NAME}=)[^\s&;,"'<>)]+"""
    rf"""|(["']{NAME}["']: ?b?")(?:[^"\\•]|\\.)+|(["']{NAME}["']: ?b?')(?:[^'\\•]|\\.)+"""
    r"""|(\bauthorization["']?: ?["']?(?:basic|bearer) )[^\s"']+"""
)
# A text without any of these, as most are, need not be searched for values.
SECRET_WORDS = ("passw", "pwd", "token", "secret", "key", "authorization")
EMBEDDED_CURE = "See its state and its log:  vibetuner services status"
# Servers for development, which a URL with the value `embedded` starts, and real ones.
REAL_SERVERS = {"REDIS_URL": "redis://valkey:6379", "MONGODB_URL": "mongodb://mongo:27017"}
# Packages of the extras that each project has; `uv add` would pin them a second time.
EXTRAS = {"asyncpg": "postgres", "uvloop": "speed"}
# The reasons that servers give, in their own words, and the cures that a restart is not.
CURES = (
    (
        r'WRONGPASS|NOAUTH|(?i:authentication (failed|required))|role ".*" does not exist',
        "Correct the user and the password in {}",
    ),
    (r"READONLY|MASTERDOWN", "Point {} at the primary, or at Sentinels"),
    (
        r"MISCONF",
        "Make room on its disk, or see its log: it takes writes again once it has saved its data",
    ),
    (r"disk is full|No space left on device", "Make room on its disk"),
    (r"disk I/O error", "Make room on its disk, or check the disk"),
    (r"WRONGTYPE", "See which key it is:  vibetuner doctor"),
    (r"LOADING", "Wait until it has loaded its data"),
    (r"NOREPLICAS", "Start its replicas, or lower its min-replicas-to-write"),
    (r"CLUSTERDOWN", "Start the missing nodes of the Cluster"),
    (r"\bBUSY ", "Wait for the script that it runs, or end it:  redis-cli SCRIPT KILL"),
    (r"NOPERM", "Grant its user the right; vibetuner doctor  prints the line"),
    (r'database ".*" does not exist', "Create it, or correct {}"),
    (r"in a read-only transaction|SessionAttribute.read_write", "Point {} at the primary"),
    (
        r"too many clients already|remaining connection slots|too many connections for",
        "Raise its max_connections, or lower DATABASE_POOL_SIZE",
    ),
    (
        r'prepared statement ".*" (does not|already) exist',
        "Behind a pooler such as PgBouncer, end {} with ?prepared_statement_cache_size=0",
    ),
    (
        r"connection (is|was) closed|cannot switch to state",
        "Its log has the reason; the next session connects again",
    ),
    (r"\bssl_\w+=.* can't be used", "Correct the file, or its name in {}"),
    (r"mismatch, certificate is not valid for", "Write a host of its certificate into {}"),
    (r"verify failed: certificate has expired", "Renew the server's certificate"),
    (r"certificate is not yet valid", "Set the clocks right, or renew the server's certificate"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "Name its certificate's authority in {}, as ssl_ca_certs= (MongoDB: tlsCAFile=)",
    ),
    (
        r"ALERT_CERTIFICATE_REQUIRED",
        "Name the client's in {}, as ssl_certfile= (MongoDB: tlsCertificateKeyFile=)",
    ),
    (r"_ALERT_(\w*CERTIFICATE|UNKNOWN_CA)", "Take a valid certificate for the client in {}"),
    (
        r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE",
        "It speaks no TLS there: correct the port, or leave TLS out of {}",
    ),
)


class GiveUp(Exception):  # noqa: N818 - names what the task does, like RetryLater
    """Raised by a task that must not be tried again, with the reason: ``GiveUp("no account")``.

    A robust task becomes a dead letter at once, with the cause ``gave_up``. Any other task fails,
    as with any other exception. It is pickled like every exception, so the ``__init__`` of a
    subclass must pass its arguments to ``super().__init__()``.
    """


class VibetunerError(Exception):
    """The base class: catch this to catch all of ours."""

    exit_code = 1


class ProjectError(VibetunerError):
    """There is no project here, or its tune.py is missing, broken, ambiguous or wrong."""


class SettingsError(VibetunerError):
    """An environment variable or a line of `.env` holds a wrong value."""


class NotConfigured(VibetunerError):  # noqa: N818 - the guide's own words
    """A capability is used whose setting is empty."""


class ServiceUnavailable(VibetunerError):  # noqa: N818 - a state, as in HTTP 503
    """An outside system is configured and does not answer."""


class RedisFull(ServiceUnavailable):
    """Redis has used its maxmemory: it takes no new tasks and events; existing tasks go on."""


class NotDurable(VibetunerError):  # noqa: N818 - a state, as above
    """A durable enqueue has no confirmation that the task is on disk and on the replicas."""

    #: Whether the task is queued all the same; None if that is unknown.
    queued: bool | None = None


class WrongEventLoop(VibetunerError, RuntimeError):  # noqa: N818 - as asyncio's own RuntimeError
    """A connection is used in another event loop or process than the one it was opened in."""


class PayloadError(VibetunerError):
    """A task's arguments or result can't be stored."""


class DeadLetterError(VibetunerError):
    """A dead letter can't be retried or discarded."""


class DeadLetterNotFound(DeadLetterError, LookupError):  # noqa: N818 - as LookupError's other subclasses
    """No dead letter has this task id."""

    exit_code = 3


class TaskError(VibetunerError):
    """An enqueued task can't be aborted, enqueued again, or enqueued like this."""


class TaskExists(TaskError):  # noqa: N818 - as TaskNotFound
    """A task with this id waits or runs, or its result is kept; nothing was enqueued."""


class TaskNotFound(TaskError, LookupError):  # noqa: N818 - as LookupError's other subclasses
    """No enqueued task has this id, or it ended so long ago that its records are gone."""

    exit_code = 3


class MailError(VibetunerError):
    """The mail server did not accept a message, for now or until a setting is corrected."""

    #: The time to wait before the next attempt, if the server named one.
    retry_after: timedelta | None = None


class MailRefused(GiveUp, MailError):  # noqa: N818 - as GiveUp
    """A message is malformed, or the mail server refuses it for good: a robust task gives up."""


class CommandError(VibetunerError):
    """A command can't do what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorContext:
    """The task or request in which an error happened, for ``VibetunerApp(on_error=...)``.

    Args:
        name: the task's name, or a request's method and route: ``POST /orders/{order_id}``.
        task_id: the task's id; empty for a request.
        tries: the number of the task's try, from 1; 0 for a request.
        is_final: False if another try follows.
        request: the request; None for a task. Its body may have been read already.
    """

    name: str
    task_id: str = ""
    tries: int = 0
    is_final: bool = True
    request: HTTPConnection | None = None


def mask_secrets(text: str) -> str:
    """Mask the passwords of URLs, and the values of ``password`` and similar names, in any text.

    All text that leaves the process passes through here: log lines, errors, records of tasks.

    >>> mask_secrets("no route to redis://ann:p@ss/word@cache:6379/0?password=x")
    'no route to redis://***@cache:6379/0?password=***'
    >>> mask_secrets("sent {'api_key': 'k3y'} with Authorization: Bearer t0k3n")
    "sent {'api_key': '***'} with Authorization: Bearer ***"
    >>> mask_secrets("see https://example.com:443/@ann")
    'see https://example.com:443/@ann'
    """
    if "://" in text and "@" in text:
        text = USERINFO.sub("***@", text)
    if "=" in text or ":" in text:
        lowered = text.lower()
        if any(word in lowered for word in SECRET_WORDS):
            return SECRET_VALUE.sub(r"\1\2\3\4***", text)
    return text


def mask_url(url: str) -> str:
    """Mask the part of a URL before the ``@``, and the value of any ``password=``.

    >>> mask_url("redis://ann:secret@cache:6379/0?password=x")
    'redis://***@cache:6379/0?password=***'
    """
    url = re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    # Up to the last @, so that a URL with a bare @ or without a scheme shows nothing either.
    return re.sub(r"(?s)^([\w+.-]*://)?.*@", r"\1***@", url)


def explain_unusable(system: str, name: str, url: str, reason: str, *, environment: str) -> str:
    """Return the message for a server that can't be used: its address, the reason, the cure.

    Args:
        system: the server's name.
        name: the setting that has its URL.
        url: the URL.
        reason: the server's or the driver's words.
        environment: ENVIRONMENT; production has no embedded servers.

    >>> explain_unusable(
    ...     "Redis", "REDIS_URL", "redis://:guess@cache", "WRONGPASS invalid password.",
    ...     environment="production",
    ... )
    "Redis at redis://***@cache can't be used: WRONGPASS invalid password. \
Correct the user and the password in REDIS_URL"
    """
    if url == "embedded":  # it has started, and does not answer now
        return f"Embedded {system} can't be used: {reason.rstrip('.')}. {EMBEDDED_CURE}"
    reason = re.sub(r"\.? \(_ssl\.c:\d+\)", "", reason)
    usual = f"Start it, or correct {name}"
    if name in REAL_SERVERS and environment != "production":
        usual = f"Start it, correct {name}, or set {name}=embedded in development"
    if url.startswith("sqlite"):
        usual = f"Correct {name}, or the rights of its folder"
    cure = cure_of_scheme(url, reason, name) or cure_of(reason, name, usual)
    return f"{system} at {mask_url(url)} can't be used: {reason.rstrip('.')}. {cure}"


def cure_of_scheme(url: str, reason: str, name: str) -> str:
    """Return the cure that depends on the form of the URL, or nothing.

    A server without TLS waits for the rest of a command, and one with TLS hangs up. Sentinels and
    the nodes of a Cluster name the primary themselves, so it is being replaced.

    >>> cure_of_scheme("rediss://cache", "no answer in time", "REDIS_URL")
    'Start it; or, if it speaks without TLS, begin REDIS_URL with redis, not rediss'
    """
    if re.match(r"rediss?\+", url) and re.search("READONLY|MASTERDOWN", reason):
        return "Wait until another server is the primary"
    if url.startswith("rediss") and re.search("no answer|timed out", reason):
        return f"Start it; or, if it speaks without TLS, begin {name} with redis, not rediss"
    if url.startswith(("redis:", "redis+")) and "reset by peer" in reason:
        return f"Start it; or, if it speaks with TLS, begin {name} with rediss, not redis"
    return ""


def cure_of(reason: str, name: str, otherwise: str) -> str:
    """Return the cure for a server's refusal; for any other reason, ``otherwise``.

    >>> cure_of("LOADING Redis is loading the dataset in memory", "REDIS_URL", "Start it")
    'Wait until it has loaded its data'
    >>> cure_of("WRONGTYPE Operation against a key", "REDIS_URL", "Start it")
    'See which key it is:  vibetuner doctor'
    """
    found = (cure.format(name) for pattern, cure in CURES if re.search(pattern, reason))
    return next(found, otherwise)


def explain_embedded(name: str) -> str:
    """Return the message for an embedded server in production.

    >>> explain_embedded("REDIS_URL").rpartition(":  ")[2]
    'REDIS_URL=redis://valkey:6379'
    """
    return (
        f"{name}=embedded is for development and tests; ENVIRONMENT=production needs the URL of a "
        f"real server. Set, for example:  {name}={REAL_SERVERS[name]}"
    )


def install_command(package: str) -> str:
    """Return the command that installs a missing package: an extra of the project, or another one.

    >>> install_command("asyncpg"), install_command("aiomysql")
    ('uv sync --extra postgres', 'uv add aiomysql')
    """
    extra = EXTRAS.get(package)
    return f"uv sync --extra {extra}" if extra else f"uv add {package}"


def suggest(wrong: object, known: Iterable[str], otherwise: str, form: str = "{}") -> str:
    """Return a question with the known name nearest to a wrong one, or ``otherwise``.

    >>> suggest("bluk", ["critical", "bulk"], "Take another", "{!r}")
    "Did you mean 'bulk'?"
    """
    from difflib import get_close_matches  # noqa: PLC0415 - only in errors

    close = get_close_matches(str(wrong), known, n=1)
    return f"Did you mean {form.format(close[0])}?" if close else otherwise


def shorten(value: object, longest: int = 60) -> str:
    """Return the beginning of a value's repr.

    >>> shorten("abcdefgh", 5), shorten([1])
    ("'abcd…", '[1]')
    """
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def first_few(texts: Sequence[str], most: int = 3) -> str:
    """Return the first texts in one line, and how many more there are.

    >>> first_few(["a", "b", "c", "d", "e"]), first_few(["a", "b"], 1), first_few(["a"])
    ('a, b, c and 2 more', 'a and 1 more', 'a')
    """
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{', '.join(texts[:most])}{more}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "task"), counted(2, "dead letter")
    ('1 task', '2 dead letters')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_line(error: BaseException, unnamed: str = "") -> str:
    """Return the first line of an error's message; if it has none, ``unnamed``, or its class.

    >>> first_line(ValueError("no\\nmoney")), first_line(KeyError()), first_line(TimeoutError())
    ('no', 'KeyError', 'no answer in time')
    """
    if not unnamed:
        unnamed = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    try:
        lines = str(error).splitlines()
    except BaseException:  # noqa: BLE001 - an error's text is anybody's code
        lines = []
    return mask_secrets(next(iter(lines), unnamed))
