"""Renders the template as it stands in this checkout, with every question at its default."""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path

from copier import run_copy
from copier.errors import CopierError, DirtyLocalWarning

from vibetuner.embedded import status

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = ".copier-answers.yml"


def main() -> None:
    """Render into the folder that is named, replacing an earlier render there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=ANSWER")
    options = parser.parse_args()
    folder = options.folder.resolve()
    make_room(folder)
    warnings.simplefilter("ignore", DirtyLocalWarning)
    try:
        run_copy(
            str(ROOT),
            folder,
            data={"project_name": "My Project"} | dict(item.split("=", 1) for item in options.data),
            defaults=True,
            quiet=True,
            vcs_ref="HEAD" if (ROOT / ".git").exists() else None,
        )
    except CopierError as error:
        sys.exit(f"error: {error}")
    print(f"rendered {folder}", file=sys.stderr)


def make_room(folder: Path) -> None:
    """Remove an earlier render; refuse to touch anything else, or one that is running."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / ANSWERS).is_file():
        sys.exit(f"error: {folder} holds something that is no render. Choose another folder")
    if users := status(folder).users:
        pids = ", ".join(str(user.pid) for user in users)
        sys.exit(f"error: the project in {folder} is running (process {pids}). Stop it first")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
