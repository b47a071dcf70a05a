"""What a project declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beanie import Document
    from fastapi import APIRouter
    from sqlmodel import SQLModel

__all__ = ["Lifespan", "VibetunerApp"]

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class VibetunerApp:
    """What a project declares in ``tune.py``, bound there to the name ``app``.

    Args:
        tasks: every task that the worker may run; the worker refuses to start when a decorated
            task is missing here, or when something here is not a task.
        routes: FastAPI routers of the web app.
        models: Beanie documents; needs MONGODB_URL.
        sql_models: SQLModel tables; needs DATABASE_URL.
        worker_lifespan: async context manager around the worker process; what it yields is the
            tasks' context. Wrap ``vibetuner.tasks.lifespan.base_lifespan``.
        frontend_lifespan: the same around the web process. Wrap
            ``vibetuner.frontend.lifespan.base_lifespan``.

    Raises:
        TypeError: an unknown argument, or a value of the wrong kind.

    >>> VibetunerApp(tasks=[]).tasks
    ()
    """

    tasks: Sequence[object] = ()
    routes: Sequence[APIRouter] = ()
    models: Sequence[type[Document]] = ()
    sql_models: Sequence[type[SQLModel]] = ()
    worker_lifespan: Lifespan | None = None
    frontend_lifespan: Lifespan | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("lifespan"):
                # What such a function returns can be called too, as a decorator: that is not meant.
                called = isinstance(value, AbstractAsyncContextManager)
                if value is not None and (called or not callable(value)):
                    raise TypeError(
                        f"{field.name}= takes a function decorated with @asynccontextmanager, "
                        f"not {value!r}"
                    )
            elif isinstance(value, str | bytes) or not isinstance(value, Sequence):
                raise TypeError(f"{field.name}= takes a list, not {value!r}")
            else:
                object.__setattr__(self, field.name, tuple(value))
