"""Builds the documentation into build/docs, or serves it while somebody writes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Renew the tables, then build or serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="show it, and follow changes")
    parser.add_argument("--port", type=int, default=8008, help="where to serve (8008)")
    options = parser.parse_args()
    subprocess.run([sys.executable, "scripts/docs_tables.py"], cwd=ROOT, check=True)
    command = ["build", "--quiet"]
    if options.serve:
        command = ["serve", "--dev-addr", f"127.0.0.1:{options.port}"]
    # Suppress the notice of MkDocs Material about its successor at each start.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    try:
        code = subprocess.run(
            [sys.executable, "-m", "mkdocs", *command], cwd=ROOT, env=environment, check=False
        ).returncode
    except KeyboardInterrupt:
        code = 0
    if code == 0 and not options.serve:
        print("built:  build/docs/index.html   (to read it with search:  uv run just docs --serve)")
    sys.exit(code)


if __name__ == "__main__":
    main()
