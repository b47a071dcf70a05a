"""``vibetuner``, and ``python -m vibetuner``."""

from __future__ import annotations

import sys
from typing import Any

from vibetuner.cli.plain import read_plainly


def main() -> None:
    """Run the command; commands that must start fast run without the command-line libraries."""
    command, *options = sys.argv[1:] or [""]
    try:
        if command == "worker-health" and {*options} <= {"--here", "--json"}:
            _check_alive(options)
        elif command == "run" and (told := read_plainly(options)):
            _launch(told)
        else:
            _run()
    except KeyboardInterrupt:  # also while it is still loading
        sys.exit(130)


def _run() -> None:
    from vibetuner.cli.loading import loading  # noqa: PLC0415 - only what is needed is loaded

    with loading():
        from vibetuner.cli.main import main as run  # noqa: PLC0415
    run()


def _check_alive(options: list[str]) -> None:
    from vibetuner.cli.alive import check_alive  # noqa: PLC0415 - as above
    from vibetuner.cli.complaint import complaining  # noqa: PLC0415

    with complaining():
        check_alive(here="--here" in options, as_json="--json" in options)


def _launch(told: dict[str, Any]) -> None:
    from vibetuner.cli.complaint import complaining  # noqa: PLC0415 - as above
    from vibetuner.cli.loading import loading  # noqa: PLC0415

    with complaining():
        with loading():
            from vibetuner.cli.launch import Launch  # noqa: PLC0415
        Launch(**told).run()


if __name__ == "__main__":
    main()
