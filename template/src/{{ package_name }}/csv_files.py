"""CSV files that are safe to open, and that exist only when they are complete."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

PARTIAL = ".part"
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")

AddRow = Callable[[Sequence[object]], None]


@contextmanager
def csv_file(path: Path) -> Iterator[AddRow]:
    """Yield a function that adds a row; the file gets its name once all rows are written.

    If an error or a cancellation ends the block early, no file is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        "w",
        encoding="utf-8",
        newline="",
        dir=path.parent,
        prefix=f"{path.stem}-",
        suffix=PARTIAL,
        delete=False,
    ) as file:
        partial = Path(file.name)
        writer = csv.writer(file)
        try:
            yield lambda cells: writer.writerow([safe_cell(cell) for cell in cells])
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    partial.replace(path)


def safe_cell(cell: object) -> object:
    """Keep a spreadsheet from reading a text as a formula.

    >>> safe_cell("=1+1"), safe_cell("Ann"), safe_cell(-3)
    ("'=1+1", 'Ann', -3)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell
