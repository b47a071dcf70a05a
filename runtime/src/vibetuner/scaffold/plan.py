"""What it takes to get from the project as it is to the one that a draft describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vibetuner.errors import CommandError
from vibetuner.scaffold.changes import Change
from vibetuner.scaffold.draft import Draft, Place
from vibetuner.scaffold.edits import Entry, add_entry, remove_entry

__all__ = ["Action", "Plan", "Step", "plan_new", "plan_removal"]


class Action(StrEnum):
    """What happens to a file."""

    CREATE = "create"
    EDIT = "edit"
    OVERWRITE = "overwrite"
    REMOVE = "remove"
    UNCHANGED = "unchanged"
    KEEP = "keep"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Step:
    """One file, and what happens to it."""

    action: Action
    change: Change


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, and what to type afterwards."""

    place: Place
    steps: tuple[Step, ...]
    next_steps: tuple[str, ...]

    @property
    def changes(self) -> list[Change]:
        """What is to be written."""
        quiet = {Action.UNCHANGED, Action.KEEP, Action.DIFFERS}
        return [step.change for step in self.steps if step.action not in quiet]

    @property
    def conflicts(self) -> list[Change]:
        """Files that hold something else, about which nothing was said."""
        return [step.change for step in self.steps if step.action is Action.DIFFERS]

    def path_of(self, step: Step) -> str:
        """A step's file, below the project's root."""
        return step.change.path.relative_to(self.place.root).as_posix()


def plan_new(place: Place, draft: Draft, *, force: bool = False, skip: bool = False) -> Plan:
    """How everything of the draft comes to be there.

    Args:
        place: the project.
        draft: what is to be there.
        force: overwrite files that hold something else.
        skip: keep them.

    Raises:
        CommandError: tune.py can't be edited, or a module stands where a package is needed.
    """
    differing = Action.OVERWRITE if force else Action.KEEP if skip else Action.DIFFERS
    steps: list[Step] = []
    for path, text in draft.files.items():
        change = Change(place.root / path, _read(place.root / path), text.encode())
        if change.before is None:
            steps.append(Step(Action.CREATE, change))
        else:
            same = change.before == change.after
            steps.append(Step(Action.UNCHANGED if same else differing, change))
    steps += _missing_packages(place, draft)
    edited = _edit_tune(place, draft.entries, add_entry)
    steps.append(Step(Action.UNCHANGED if edited.before == edited.after else Action.EDIT, edited))
    return Plan(place, tuple(steps), draft.next_steps)


def plan_removal(place: Place, draft: Draft, *, force: bool = False, skip: bool = False) -> Plan:
    """How everything of the draft goes away again, but for what was changed since.

    ``force`` removes that too, ``skip`` keeps it. The first file of a draft is what tune.py
    imports: while that is kept, tune.py stays as it is.
    """
    differing = Action.REMOVE if force else Action.KEEP if skip else Action.DIFFERS
    steps: list[Step] = []
    for path, text in draft.files.items():
        before = _read(place.root / path)
        if before is not None:
            action = Action.REMOVE if before == text.encode() else differing
            steps.append(Step(action, Change(place.root / path, before, None)))
    main = place.root / next(iter(draft.files))
    if all(step.change.path != main or step.action is Action.REMOVE for step in steps):
        edited = _edit_tune(place, draft.entries, remove_entry)
        if edited.before != edited.after:
            steps.append(Step(Action.EDIT, edited))
    going = {step.change.path for step in steps if step.action is Action.REMOVE}
    steps += _empty_packages(place, draft, going)
    return Plan(place, tuple(steps), ("git status", "uv run just check"))


def _missing_packages(place: Place, draft: Draft) -> Iterator[Step]:
    for folder in draft.packages:
        module, package = place.root / f"{folder}.py", place.root / folder
        if module.is_file() and not package.is_dir():
            raise CommandError(
                f"{folder}.py is a module, and a package is needed. Type:  mkdir {folder} && "
                f"git mv {folder}.py {folder}/__init__.py"
            )
        if not (package / "__init__.py").exists():
            yield Step(Action.CREATE, Change(package / "__init__.py", None, b""))


def _empty_packages(place: Place, draft: Draft, going: set[Path]) -> Iterator[Step]:
    """Packages that hold nothing else any more; the deepest first, and never a top one of src/."""
    for folder in sorted(draft.packages, key=len, reverse=True):
        package = place.root / folder
        init = package / "__init__.py"
        if _read(init) != b"" or folder.removeprefix(f"{place.source}/").count("/") == 0:
            continue
        rest = {path for path in package.iterdir() if path.name != "__pycache__"}
        if rest - {init} <= going | {path.parent for path in going if path.name == "__init__.py"}:
            going.add(init)
            yield Step(Action.REMOVE, Change(init, b"", None))


def _edit_tune(place: Place, entries: tuple[Entry, ...], edit: Callable[..., str]) -> Change:
    before = place.tune.read_bytes()
    try:
        text = before.decode()
    except UnicodeDecodeError:
        raise CommandError(f"{place.tune} can't be edited: it is not UTF-8") from None
    for entry in entries:
        text = edit(text, entry, width=place.width)
    return Change(place.tune, before, text.encode())


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandError(f"{path} can't be read ({error.strerror})") from None
