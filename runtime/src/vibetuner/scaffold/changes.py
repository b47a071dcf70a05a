"""Changes several files, all or none."""

from __future__ import annotations

import difflib
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType

from vibetuner.errors import CommandError


class Action(StrEnum):
    """An action on a file."""

    CREATE = "create"
    EDIT = "edit"
    OVERWRITE = "overwrite"
    REMOVE = "remove"
    UNCHANGED = "unchanged"
    KEEP = "keep"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Change:
    """A file's bytes before and after, None if the file does not exist, and the action on it."""

    path: Path
    before: bytes | None
    after: bytes | None
    action: Action = Action.EDIT


def apply_changes(changes: Sequence[Change]) -> None:
    """Write all changes, or none: after a failure, everything is as it was.

    Every file is first written beside its target and then renamed. A file keeps its mode, a link
    stays a link. Folders are created as needed, and removed when a removal leaves them empty.

    Raises CommandError if a file can't be written, or no longer holds ``before``.
    """
    done: list[Change] = []
    drafts: dict[Path, Path] = {}
    made: list[Path] = []
    with uninterrupted():
        try:
            for change in changes:
                _prepare(change, drafts, made)
            for change in changes:
                done.append(change)
                if change.after is not None:
                    drafts[change.path].replace(change.path.resolve())
                elif change.before is not None:
                    change.path.unlink()
        except BaseException as error:
            _roll_back(done, drafts, made)
            if isinstance(error, OSError):
                raise CommandError(
                    f"{change.path} can't be written ({error.strerror}). Nothing was changed"
                ) from error
            raise
        for change in changes:
            if change.after is None:
                _remove_empty_folders(change.path.parent)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM to the end of the block; an error in the block takes precedence."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        came.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def diff(changes: Iterable[Change], root: Path) -> str:
    """Return all changes as one unified diff, with paths below ``root``.

    >>> print(diff([Change(Path("/p/a.py"), b"x\\n", b"y\\n")], Path("/p")), end="")
    --- a/a.py
    +++ b/a.py
    @@ -1 +1 @@
    -x
    +y
    """
    return "".join(_diff_of(change, change.path.relative_to(root).as_posix()) for change in changes)


def _diff_of(change: Change, name: str) -> str:
    before, after = _lines(change.before), _lines(change.after)
    old = "/dev/null" if change.before is None else f"a/{name}"
    new = "/dev/null" if change.after is None else f"b/{name}"
    if not before and not after and (change.before is None) != (change.after is None):
        return f"--- {old}\n+++ {new}\n"  # an empty file has no line to show
    shown = difflib.unified_diff(before, after, old, new)
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in shown
    )


def _lines(content: bytes | None) -> list[str]:
    return (content or b"").decode("utf-8", "replace").splitlines(keepends=True)


def _prepare(change: Change, drafts: dict[Path, Path], made: list[Path]) -> None:
    """Check the file's content, and write the new content beside it."""
    if _read(change.path) != change.before:
        raise CommandError(
            f"{change.path} was changed in the meantime. Nothing was changed; try again"
        )
    if change.after is not None:
        folders = change.path.resolve().parents
        made += [folder for folder in folders if not folder.exists()]
        folders[0].mkdir(parents=True, exist_ok=True)
        _write_draft(change.path, change.after, drafts)


def _write_draft(path: Path, content: bytes, drafts: dict[Path, Path]) -> None:
    target = path.resolve()
    drafts[path] = draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    draft.write_bytes(content)
    if target.exists():
        draft.chmod(target.stat().st_mode & 0o777)


def _roll_back(done: list[Change], drafts: dict[Path, Path], made: list[Path]) -> None:
    """Restore the files; continue if one can't be restored."""
    for draft in drafts.values():
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    for change in reversed(done):
        with suppress(OSError):
            if change.before is None:
                change.path.unlink(missing_ok=True)
            elif _read(change.path) != change.before:
                _write_draft(change.path, change.before, drafts)
                drafts[change.path].replace(change.path.resolve())
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _remove_empty_folders(folder: Path) -> None:
    """Remove a folder that contains nothing but Python's cache."""
    with suppress(OSError):
        for cached in (folder / "__pycache__").glob("*.pyc"):
            if not (folder / f"{cached.name.partition('.')[0]}.py").exists():
                cached.unlink()
        with suppress(OSError):
            (folder / "__pycache__").rmdir()
        folder.rmdir()
