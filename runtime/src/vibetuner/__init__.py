"""Web apps with reliable background tasks: the runtime of generated projects.

Importing this package is silent, quick and needs no environment; everything else is in submodules.
"""

from __future__ import annotations

from vibetuner.app import VibetunerApp

__all__ = ["VibetunerApp", "__version__"]

#: The release script writes it, and the build reads it.
__version__ = "0.1.0"
