"""Web apps with reliable background tasks: the runtime of generated projects.

Importing this package is silent, quick and needs no environment; everything else is in submodules,
which are loaded on demand.
"""

from __future__ import annotations

from vibetuner.app import VibetunerApp

__all__ = ["VibetunerApp", "__version__"]

__version__: str


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Loaded on demand: importlib.metadata alone would triple the import time.
        from importlib.metadata import version  # noqa: PLC0415

        return version("vibetuner-runtime")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
