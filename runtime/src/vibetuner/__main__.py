"""``vibetuner`` and ``python -m vibetuner``."""

from __future__ import annotations

from vibetuner.cli.main import main

if __name__ == "__main__":
    main()
