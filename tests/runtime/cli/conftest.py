"""A terminal that shows what a command prints."""

from __future__ import annotations

import os
import pty
import select
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from typing import TextIO

Redirect = Callable[[TextIO], AbstractContextManager[object]]


@contextmanager
def on_terminal(redirect: Redirect = redirect_stdout) -> Iterator[Callable[[str], str]]:
    """Print to a terminal in the block; yield its reader, which waits for a text."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0), os.fdopen(theirs, "w") as output, redirect(output):

        def read(text: str) -> str:
            output.flush()
            found = ""
            while text not in found:
                assert select.select([ours], [], [], 20)[0], f"{text!r} not in {found!r}"
                found = (found + os.read(ours, 65536).decode()).replace("\r\n", "\n")
            return found

        yield read
