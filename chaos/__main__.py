"""Injects faults and prints the ledger: ``python -m chaos --seconds 120 --seed 1``."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from shutil import rmtree
from tempfile import mkdtemp
from typing import get_args

from chaos.driver import Run, run
from chaos.faults import Topology
from chaos.outbox import Database
from chaos.processes import run_until_signal
from chaos.table import show


def main() -> int:
    """Run and print; return 0 if no task was lost and no try was counted wrongly."""
    options = _parse()
    durable = ", durable" if options.durable else ""
    where = f"{options.topology}, {options.database}{durable}"
    _say(f"seed {options.seed}, {options.seconds:g} s of faults, {where}")
    with _folder(keep=options.keep) as folder:
        wanted = Run(
            seed=options.seed,
            seconds=options.seconds,
            workers=options.workers,
            topology=options.topology,
            database=options.database,
            durable=options.durable,
            folder=folder,
            say=_say,
        )
        try:
            ledger = run_until_signal(run(wanted))
        except asyncio.CancelledError:
            _say("stopped")
            return 130
    text = json.dumps(ledger.to_dict(), indent=2) if options.json else show(ledger)
    sys.stdout.write(f"{text}\n")
    return 0 if ledger.is_clean else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos", description="Run tasks through faults drawn from a seed, and judge the end."
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=120, help="how long faults are injected")
    length.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10_000))
    parser.add_argument("--workers", type=int, default=2, help="beside a supervisor with two more")
    parser.add_argument(
        "--topology", choices=get_args(Topology), default="single", help="the servers of the queue"
    )
    parser.add_argument(
        "--database", choices=get_args(Database), default="sqlite", help="where the outbox is"
    )
    parser.add_argument("--durable", action="store_true", help="run with ENQUEUE_DURABLE set")
    parser.add_argument("--json", action="store_true", help="the ledger for scripts")
    parser.add_argument("--keep", action="store_true", help="keep the folder with journal and logs")
    options = parser.parse_args()
    if options.minutes is not None:
        options.seconds = options.minutes * 60
    return options


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="chaos-"))
    try:
        yield folder
    finally:
        if keep:
            _say(f"kept: {folder}")
        else:
            rmtree(folder, ignore_errors=True)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
