"""Runs the MongoDB-protocol server, SecantusDB, for the keeper.

``python -m vibetuner.embedded.mongo <data folder> <port> <keeper's pid>``
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

import bson
from bson.codec_options import CodecOptions, TypeDecoder, TypeRegistry

PARENT_POLL = 0.5


class PlainReference(TypeDecoder):
    """Decodes a DBRef as a plain document.

    As a DBRef object it has no fields, and a query for ``customer.$id`` would find nothing.
    """

    bson_type = bson.DBRef

    def transform_bson(self, value: bson.DBRef) -> dict[str, object]:
        """Return its ``$ref``, ``$id`` and, if present, ``$db``."""
        return dict(value.as_doc())


def main() -> None:
    """Serve until SIGTERM, or until the keeper has ended."""
    data, port, keeper = sys.argv[1], sys.argv[2], int(sys.argv[3])
    bson.DEFAULT_CODEC_OPTIONS = CodecOptions(type_registry=TypeRegistry([PlainReference()]))
    # On systems whose kernel can't signal the keeper's death (macOS), poll for it.
    threading.Thread(target=_end_with, args=(keeper,), daemon=True).start()
    config = Path(data, "secantusd.toml")
    config.touch()
    options = {
        "--config": str(config),  # empty; otherwise the user's own would be read
        "--host": "127.0.0.1",
        "--port": port,
        "--storage-path": data,
        "--log-level": "WARNING",
    }
    # A dead letter is removed from Redis once it is here, so an acknowledged write must survive a
    # kill.
    sys.argv[1:] = [*(part for option in options.items() for part in option), "--sync-on-commit"]
    runpy.run_module("secantus", run_name="__main__")


def _end_with(keeper: int) -> None:
    while os.getppid() == keeper:
        time.sleep(PARENT_POLL)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
