"""Imports code without garbage collection, and coredis without beartype."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any

# New objects before a collection of the young generation, then collections before an older one.
THRESHOLDS = (5000, 20, 50)
# The modules of beartype that coredis imports; a package comes before its modules.
BEARTYPE = ("beartype", "beartype.door", "beartype.bite")


@contextmanager
def loading() -> Iterator[None]:
    """Turn off the garbage collector for the block, and exempt the objects made in it.

    Modules live as long as the process: searching them for garbage makes a start a tenth longer,
    and each later collection, too. Afterwards it collects less often than by default: running tasks
    and requests hold hundreds of objects that are not garbage, and are freed without it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        gc.enable()


def import_coredis() -> None:
    """Import coredis, and leave beartype to its first use.

    beartype's 380 modules are a third of the time that coredis takes to import, and 10 MB. coredis
    calls it for a ``TypeAdapter``, and for the checks that COREDIS_RUNTIME_CHECKS turns on.
    """
    if os.environ.get("COREDIS_RUNTIME_CHECKS") or sys.modules.keys() & {"beartype", "coredis"}:
        return
    stand_ins = {name: _StandIn(name) for name in BEARTYPE}
    sys.modules.update(stand_ins)
    try:
        with suppress(ImportError):  # a version that wants more of beartype is imported as usual
            import_module("coredis")
    finally:
        for name in stand_ins:
            del sys.modules[name]


class _StandIn(ModuleType):
    """A module of beartype; each of its functions imports the real one when it is called."""

    __version__ = "0.22"  # in older ones, coredis looks for its functions in another module

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(self.__name__), name)(*args, **kwargs)

        return call
