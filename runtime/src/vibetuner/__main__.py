"""``vibetuner``, and ``python -m vibetuner``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that was typed; a health check does without the command line's libraries."""
    command, *options = sys.argv[1:] or [""]
    try:
        if command == "worker-health" and {*options} <= {"--here", "--json"}:
            from vibetuner.cli.alive import check_alive  # noqa: PLC0415 - only one is loaded
            from vibetuner.cli.complaint import complaining  # noqa: PLC0415

            with complaining():
                check_alive(here="--here" in options, as_json="--json" in options)
            return
        from vibetuner.cli.main import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:  # also while it is still loading
        sys.exit(130)


if __name__ == "__main__":
    main()
