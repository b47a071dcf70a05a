"""Settings: environment variables as typed values."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from vibetuner.errors import REAL_SERVERS, SettingsError, explain_embedded, mask_url
from vibetuner.project import (
    ProjectInfo,
    data_dir,
    find_root,
    key_prefix,
    project_info,
    project_root,
)
from vibetuner.setting_files import check_env_file, find_secret, given, read_env_file, read_secrets
from vibetuner.state import Slot

__all__ = [
    "ProjectInfo",
    "Settings",
    "data_dir",
    "get_settings",
    "mask_url",
    "project_info",
    "project_root",
    "using_settings",
]

EMBEDDED = "embedded"
DAY = 86_400
MOST = 1_000_000
TERABYTE = 10**12
# The longest wrong value that an error message shows.
SHOWN = 80


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected form of a variable, for error messages."""

    text: str


Switch = Annotated[bool, Expected("true or false")]
Secret = Annotated[SecretStr | None, Expected("a long random text")]
Seconds = Annotated[float, Expected("seconds, 0 to 86400"), Field(ge=0, le=DAY)]
Patience = Annotated[float, Expected("seconds, more than 0, up to 86400"), Field(gt=0, le=DAY)]
Number = Annotated[int, Expected("a whole number, 1 to 1000000"), Field(ge=1, le=MOST)]
NumberOrAny = Annotated[
    int, Expected("a whole number up to 1000000, 0 for any"), Field(ge=0, le=MOST)
]
Bytes = Annotated[int, Expected("whole bytes, 1 to 10^12"), Field(ge=1, le=TERABYTE)]


class Settings(BaseModel):
    """Typed settings, from the environment, `.env`, or files in /run/secrets.

    A variable overrides `.env`, and `.env` overrides a secret's file, which is named after the
    setting. An empty variable counts as not set.
    """

    # pydantic-settings reads the same, and importing it is a tenth of a worker's start.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    environment: Annotated[
        Literal["development", "test", "production"], Expected("development, test or production")
    ] = Field("development", description="What this process runs for")
    debug: Switch = Field(default=False, description="Verbose logs, tracebacks, open /debug pages")
    redis_url: Annotated[
        str | None, Expected("redis://host:6379, rediss://host:6379 or embedded")
    ] = Field(None, description="Redis or Valkey: the queue and the event relay")
    mongodb_url: Annotated[
        str | None, Expected("mongodb://host:27017, mongodb+srv://host or embedded")
    ] = Field(
        None,
        pattern=r"^(embedded$|mongodb(\+srv)?://)",
        description="MongoDB: documents and dead letters",
    )
    database_url: Annotated[
        str | None,
        Expected("sqlite+aiosqlite:///file.db or postgresql+asyncpg://user:password@host/name"),
    ] = Field(None, description="SQL database")
    database_pool_size: Annotated[int | None, Expected("a whole number, 1 to 10000")] = Field(
        None,
        ge=1,
        le=10_000,
        description="SQL connections that each process keeps open, and as many again under "
        "load; WORKER_CONCURRENCY when empty",
    )
    database_pool_timeout: Patience = Field(
        30.0, description="Seconds to wait for a free SQL connection"
    )
    database_answer_timeout: Patience = Field(
        4.0,
        description="Seconds that a request waits for each step of SQL: a connection, a lock, an "
        "answer; in a worker, each task has its own limit",
    )
    secret_key: Secret = Field(None, description="Signs payloads and tickets")
    secret_key_previous: Secret = Field(
        None, description="The SECRET_KEY before the last change; still accepted"
    )
    unbound_signatures: Switch = Field(
        default=True,
        description="Whether to accept tasks and results that a version before 0.2 has signed",
    )
    debug_access_token: Secret = Field(
        None, description="Opens the /debug pages outside development"
    )
    published_locally: Switch = Field(
        default=False,
        description="The port is published on 127.0.0.1 only, as a container engine can do",
    )
    allowed_hosts: Annotated[str, Expected("host names with commas between")] = Field(
        "", description="Host names to answer; empty for any, in development for localhost only"
    )
    forwarded_allow_ips: Annotated[
        str, Expected("addresses and networks with commas between, or *")
    ] = Field("127.0.0.1,::1", description="Proxies whose X-Forwarded-For and -Proto are trusted")
    connections_per_client: NumberOrAny = Field(
        256, description="Connections that one client may have open to a web process"
    )
    max_body: Annotated[ByteSize, Expected("bytes, or a size such as 10MB, up to 1TB")] = Field(
        ByteSize(1_000_000),
        le=TERABYTE,
        description="Largest body of a request; a route may allow more",
    )
    worker_concurrency: Annotated[int, Expected("a whole number, 1 to 10000")] = Field(
        16, ge=1, le=10_000, description="Tasks that one worker runs at the same time"
    )
    worker_grace_period: Seconds = Field(
        30.0, description="Seconds that running tasks get to finish at a planned stop"
    )
    worker_watchdog_timeout: Seconds = Field(
        60.0,
        description="Seconds that its event loop may be blocked before a worker ends; 0 for no "
        "limit",
    )
    worker_idle_timeout: Annotated[float, Expected("seconds, 1 to 86400")] = Field(
        60.0,
        ge=1,
        le=DAY,
        description="Seconds after which a lost worker's tasks are started again",
    )
    enqueue_durable: Switch = Field(
        default=False,
        description="Whether each enqueue waits until the task is on disk and on the replicas",
    )
    sse_history: Number = Field(
        200, description="Events that a channel keeps for browsers that reconnect"
    )
    sse_history_ttl: Annotated[int, Expected("whole seconds, 1 to 31536000")] = Field(
        3600,
        ge=1,
        le=365 * DAY,
        description="Seconds that a channel keeps its events after the last one",
    )
    sse_history_bytes: Bytes = Field(1_000_000, description="Bytes of events that a channel keeps")
    sse_event_bytes: Bytes = Field(
        250_000, description="Bytes of the largest event that may be sent"
    )
    sse_streams: Number = Field(
        2000, description="Event streams that a web process serves at the same time"
    )
    sse_streams_per_client: NumberOrAny = Field(
        100, description="Event streams of one address at the same time; 0 for no limit"
    )
    redis_key_prefix: Annotated[
        str,
        Expected("letters, digits, '-', '_' and '.', with ':' at the end; in braces for a Cluster"),
    ] = Field(
        "", description="Names the queue; keys in Redis begin with it, or with `streaq:` and it"
    )
    smtp_url: Annotated[
        SecretStr | None,
        Expected("smtp://user:password@host:587 or smtps://user:password@host:465"),
    ] = Field(None, description="Outgoing mail")
    mail_from: Annotated[str | None, Expected("an address such as team@example.com")] = Field(
        None, pattern=r"^[^\r\n]+@[^\r\n]+$", description="Sender of outgoing mail"
    )

    def __init__(self, **values: Any) -> None:
        """Read the environment; ``values`` override it."""
        super().__init__(**(_known(os.environ) | values))

    @field_validator("database_url")
    @classmethod
    def _database_driver(cls, value: str | None) -> str | None:
        if value is None:
            return None
        for plain, driver in ASYNC_DRIVERS.items():
            if value.startswith(f"{plain}://"):
                value = f"{driver}{value.removeprefix(plain)}"
        if not value.startswith(tuple(f"{driver}://" for driver in ASYNC_DRIVERS.values())):
            raise ValueError("unknown scheme")
        if value.startswith("postgresql"):  # hosting companies write libpq's name
            value = re.sub(r"(?<=[?&])sslmode=", "ssl=", value)
        return _sqlite_below_root(value)

    @field_validator("smtp_url")
    @classmethod
    def _smtp_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not value.get_secret_value().startswith(("smtp://", "smtps://")):
            raise ValueError("unknown scheme")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        for name in filter(None, value.split(",")):
            if not re.fullmatch(r"\*|(\*\.)?[\w.-]+", name.strip()):
                raise ValueError("not a host name")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _networks(cls, value: str) -> str:
        for network in value.split(","):
            if network.strip() != "*":
                ip_network(network.strip(), strict=False)
        return value

    @field_validator("redis_key_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not re.fullmatch(r"[\w.:-]*(\{[\w.:-]+\})?[\w.:-]*", value) or not value.strip(":"):
            raise ValueError("no name, or an unexpected character")
        return f"{value.rstrip(':')}:"

    @model_validator(mode="before")
    @classmethod
    def _default_prefix(cls, values: dict[str, Any]) -> dict[str, Any]:
        prefix = values.get("redis_key_prefix")
        return {**values, "redis_key_prefix": prefix or key_prefix("", values.get("redis_url"))}

    @model_validator(mode="after")
    def _no_embedded_services_in_production(self) -> Settings:
        if self.environment == "production":
            for name in REAL_SERVERS:
                if getattr(self, name.lower()) == EMBEDDED:
                    raise ValueError(name)
        return self

    @property
    def queue_name(self) -> str:
        """The queue's name: the key prefix without its colon."""
        return self.redis_key_prefix.rstrip(":")


ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}


def _sqlite_below_root(url: str) -> str:
    """Place a relative SQLite file below the project's root, whatever the current folder is."""
    head, mark, query = url.partition("?")
    scheme, _, name = head.partition(":///")
    is_uri = name.startswith("file:") and "uri=true" in query.split("&")
    name = name.removeprefix("file:") if is_uri else name
    if not scheme.startswith("sqlite") or name[:1] in {"", "/", ":"} or find_root() is None:
        return url
    # SQLAlchemy decodes a path, and SQLite that of a URI once more.
    root = quote(str(project_root())) if is_uri else str(project_root())
    root = root.replace("%", "%25").replace("?", "%3F")
    return f"{scheme}:///{'file:' * is_uri}{root}/{name}{mark}{query}"


_override = Slot[Settings](lambda: LookupError("no override"))


def get_settings() -> Settings:
    """Return the process's settings, read once.

    Raises:
        SettingsError: a variable or a line of `.env` holds a wrong value.
    """
    return _override.peek() or _load_settings()


def url_for_people(settings: Settings, field: str) -> str:
    """Return a server's URL for a message; ``embedded`` where the project has that."""
    configured = getattr(get_settings(), field)
    return EMBEDDED if configured == EMBEDDED else getattr(settings, field) or ""


def using_settings(settings: Settings) -> AbstractContextManager[Settings]:
    """Make :func:`get_settings` return ``settings`` for the length of the block."""
    return _override.hold(settings)


@cache
def _load_settings() -> Settings:
    env_file = (find_root() or Path.cwd()) / ".env"
    check_env_file(env_file)
    stored = read_secrets(Settings.model_fields) | _known(read_env_file(env_file))
    try:
        return Settings(**(stored | _known(os.environ)))
    except ValidationError as error:
        problems = [_explain(dict(detail), env_file) for detail in error.errors()]
        raise SettingsError("; ".join(problems)) from None


def _known(variables: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the variables that are settings and not empty, by the settings' names."""
    return {name: one for name, one in given(variables).items() if name in Settings.model_fields}


def _explain(detail: dict[str, Any], env_file: Path) -> str:
    if not detail["loc"]:
        return explain_embedded(str(detail["ctx"]["error"]))
    name = str(detail["loc"][0]).lower()
    field = Settings.model_fields[name]
    expected = next(item.text for item in field.metadata if isinstance(item, Expected))
    variable = name.upper()
    exported, secret = _known(os.environ), find_secret(name)
    where = "the environment" if name in exported else env_file.name
    if secret and name not in exported and name not in _known(read_env_file(env_file)):
        return f"{variable}: expected {expected}, found something else in {secret}"
    return f"{variable}: expected {expected}, found {_shown(name, env_file)} in {where}"


def _shown(name: str, env_file: Path) -> str:
    if Settings.model_fields[name].annotation == (SecretStr | None):
        return "a value that is not shown"
    shown = mask_url((_known(read_env_file(env_file)) | _known(os.environ)).get(name, ""))
    return repr(shown) if len(shown) <= SHOWN else f"{shown[:SHOWN]!r}..."
