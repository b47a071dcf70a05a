"""``vibetuner``, and ``python -m vibetuner``.

The simple forms of ``vibetuner run`` are parsed here, without the command line's libraries: a
worker would keep these in memory, and wait for their import. Help, errors and all other forms are
left to the full command line.
"""

from __future__ import annotations

import sys
from typing import Any

MODES = {"dev", "prod"}
PARTS = {"frontend", "worker", "all"}
LIMITS = {"port": 65535, "workers": 1000}


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


def read_plainly(arguments: list[str]) -> dict[str, Any] | None:
    """Parse the arguments of ``vibetuner run`` for Launch; None if they aren't simple.

    >>> read_plainly(["prod", "worker", "--workers", "4"])
    {'mode': 'prod', 'part': 'worker', 'host': '127.0.0.1', 'port': None, 'workers': 4}
    >>> read_plainly(["prod", "--port=many"]) is read_plainly(["--help"]) is None
    True
    """
    told: dict[str, Any] = {"host": "127.0.0.1", "port": None, "workers": 1}
    words, left = [], iter(arguments)
    for word in left:
        if not word.startswith("-"):
            words.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if name not in told:
            return None
        told[name] = _value(name, value if equals else next(left, ""))
        if told[name] is None:
            return None
    match words:
        case [mode] if mode in MODES:
            return {"mode": mode, "part": "all", **told}
        case [mode, part] if mode in MODES and part in PARTS:
            return {"mode": mode, "part": part, **told}
    return None


def _value(name: str, text: str) -> str | int | None:
    if name == "host":
        return text if text and not text.startswith("-") else None
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= LIMITS[name]:
        return int(text)
    return None


if __name__ == "__main__":
    main()
