"""The project's declaration, made in `tune.py`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beanie import Document
    from fastapi import APIRouter
    from sqlmodel import SQLModel
    from starlette.middleware import Middleware
    from starlette.types import ExceptionHandler

    from vibetuner.errors import ErrorContext

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class VibetunerApp:
    """The declaration of a project, bound to the name ``app`` in ``tune.py``.

    Args:
        tasks: every task that the worker may run; the worker refuses to start if a decorated task
            is missing here, or if an item is not a task.
        queues: the names of the project's queues, highest first; by default there is one. A task
            names its queue with ``queue=``; others go into ``default``, or into the last if there
            is no ``default``.
        routes: FastAPI routers of the web app.
        models: Beanie documents; needs MONGODB_URL.
        sql_models: SQLModel tables; needs DATABASE_URL.
        worker_lifespan: async context manager around the worker process; the value that it yields
            is the tasks' context. Wrap ``vibetuner.tasks.lifespan.base_lifespan``.
        frontend_lifespan: async context manager around the web process. Wrap
            ``vibetuner.frontend.lifespan.base_lifespan``.
        middleware: ``starlette.middleware.Middleware`` objects around the routes, outermost first:
            CORS, sessions, compression, sign-in.
        on_error: called with each exception of a task's try or of a request, and with its
            :class:`~vibetuner.errors.ErrorContext`; for a service such as Sentry.
        on_failure: called with each :class:`~vibetuner.tasks.dead_letters.DeadLetter` once it is
            stored. Both hooks may be async; a sync function runs in a thread. Nothing waits for
            them: a call has 30 seconds, and an exception is logged and changes nothing.
        exception_handlers: called for an exception class or a status code, as in FastAPI; other
            errors have the page ``templates/error.html``, and JSON for programs.
        mounts: ASGI apps by path, such as ``{"/admin": admin}``; their lifespans don't run.
        template_filters: Jinja filters by name, in addition to Jinja's own.
        template_globals: names that every template can use.
        headers: sent with each response that does not set them itself, in addition to the default
            ones (a Content-Security-Policy and four more); None removes a default.
        trusted_origins: other sites whose pages may send forms and requests here, such as
            ``https://shop.example``; ``*`` turns the check off.
        openapi: whether ``/openapi.json`` is answered; by default everywhere but in production.

    Raises:
        TypeError: an unknown argument, or a value of the wrong type.

    >>> VibetunerApp(tasks=[]).tasks
    ()
    """

    tasks: Sequence[object] = ()
    queues: Sequence[str] = ()
    routes: Sequence[APIRouter] = ()
    models: Sequence[type[Document]] = ()
    sql_models: Sequence[type[SQLModel]] = ()
    worker_lifespan: Lifespan | None = None
    frontend_lifespan: Lifespan | None = None
    on_error: Callable[[BaseException, ErrorContext], Any] | None = None
    on_failure: Callable[[Any], Any] | None = None
    middleware: Sequence[Middleware] = ()
    exception_handlers: Mapping[int | type[Exception], ExceptionHandler] = field(
        default_factory=dict
    )
    mounts: Mapping[str, Callable[..., Awaitable[None]]] = field(default_factory=dict)
    template_filters: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    template_globals: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    trusted_origins: Sequence[str] = ()
    openapi: bool | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name.endswith("lifespan"):
                _check_lifespan(one.name, value)
            elif one.name in HOOKS:
                if value is not None and not callable(value):
                    raise TypeError(f"{one.name}= takes a function, not {value!r}")
            elif one.name in MAPPINGS:
                if not isinstance(value, Mapping):
                    raise TypeError(f"{one.name}= takes a dict, not {value!r}")
                object.__setattr__(self, one.name, MappingProxyType(dict(value)))
            elif one.name == "openapi":
                if value is not None and not isinstance(value, bool):
                    raise TypeError(f"openapi= takes True or False, not {value!r}")
            elif isinstance(value, str | bytes) or not isinstance(value, Sequence):
                raise TypeError(f"{one.name}= takes a list, not {value!r}")
            else:
                object.__setattr__(self, one.name, tuple(value))
        _check_queues(self)
        _check_lists(self)
        _check_dicts(self)


QUEUE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
HOOKS = frozenset({"on_error", "on_failure"})
MAPPINGS = frozenset(
    {"exception_handlers", "mounts", "template_filters", "template_globals", "headers"}
)


def _check_lifespan(name: str, value: object) -> None:
    # A call of such a function returns an object that can itself be called, as a decorator.
    called = isinstance(value, AbstractAsyncContextManager)
    if value is not None and (called or not callable(value)):
        raise TypeError(
            f"{name}= takes a function decorated with @asynccontextmanager, not {value!r}"
        )


def _check_queues(app: VibetunerApp) -> None:
    queues: Sequence[object] = app.queues
    for name in queues:
        if not isinstance(name, str) or not re.fullmatch(QUEUE, name):
            raise TypeError(
                f"queues= takes names of letters, digits, '-', '_' and '.', not {name!r}"
            )
    if len(set(app.queues)) < len(app.queues):
        raise TypeError(f"queues= takes each name once, not {', '.join(app.queues)}")


def _check_lists(app: VibetunerApp) -> None:
    for router in app.routes:
        if not (hasattr(router, "routes") and hasattr(router, "prefix")):
            text = f"routes= takes APIRouter objects, not {router!r}"
            raise TypeError(f"{text}. Apps go into mounts=")
    for one in app.middleware:
        if not hasattr(one, "cls"):
            raise TypeError(f"middleware= takes Middleware(...) objects, not {one!r}")
    for origin in app.trusted_origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/]+/?", str(origin)):
            raise TypeError(f"trusted_origins= takes '*' or 'https://host', not {origin!r}")


def _check_dicts(app: VibetunerApp) -> None:
    for name in ("exception_handlers", "mounts", "template_filters"):
        for key, value in getattr(app, name).items():
            if not callable(value):
                raise TypeError(f"{name}= takes functions, not {value!r} for {key!r}")
    for path in app.mounts:
        if not re.fullmatch(r"/.*[^/]", str(path)):
            raise TypeError(f"mounts= takes paths such as '/admin', not {path!r}")
    keys: Iterable[object] = app.exception_handlers
    for key in keys:
        is_class = isinstance(key, type) and issubclass(key, Exception)
        if not (is_class or isinstance(key, int)):
            raise TypeError(f"exception_handlers= takes 404 or SomeError as a key, not {key!r}")
    headers: Mapping[Any, Any] = app.headers
    for name, value in headers.items():
        if not (isinstance(name, str) and re.fullmatch(HEADER, name)):
            raise TypeError(f"headers= takes names such as 'Referrer-Policy', not {name!r}")
        if value is not None and not (isinstance(value, str) and re.fullmatch(r"[ -~]*", value)):
            raise TypeError(f"headers= takes a line of ASCII text for {name!r}, not {value!r}")
