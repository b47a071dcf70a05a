"""Plans the changes to files that turn a project into the one that a draft describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vibetuner.errors import CommandError
from vibetuner.scaffold.changes import Action, Change
from vibetuner.scaffold.draft import Draft, Place, tidy
from vibetuner.scaffold.edits import Entry, add_entry, remove_entry


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, the commands to run afterwards, and the tasks whose code is removed."""

    place: Place
    steps: tuple[Change, ...]
    next_steps: tuple[str, ...]
    lost_tasks: tuple[str, ...] = ()

    @property
    def changes(self) -> list[Change]:
        """The changes to write."""
        quiet = {Action.UNCHANGED, Action.KEEP, Action.DIFFERS}
        return [step for step in self.steps if step.action not in quiet]

    @property
    def conflicts(self) -> list[Change]:
        """Files that differ, if neither force nor skip was given."""
        return [step for step in self.steps if step.action is Action.DIFFERS]

    def path_of(self, step: Change) -> str:
        """Return a step's file, relative to the project's root."""
        return step.path.relative_to(self.place.root).as_posix()


def plan_new(place: Place, draft: Draft, *, force: bool = False, skip: bool = False) -> Plan:
    """Plan the steps that create the draft.

    Files that differ are overwritten with ``force``, and kept with ``skip``.

    Raises CommandError if tune.py can't be edited, a module exists where a package is needed, or a
    package where a module is.
    """
    differing = Action.OVERWRITE if force else Action.KEEP if skip else Action.DIFFERS
    steps: list[Change] = []
    for name, untidy in draft.files.items():
        path = place.root / name
        if path.suffix == ".py" and any(path.with_suffix("").glob("*.py")):
            raise CommandError(
                f"{name.removesuffix('.py')}/ is a package, which would hide {name}. Choose "
                "another name, or rename the package first"
            )
        before, text = _read(path), tidy(place, path, untidy).encode()
        same = Action.UNCHANGED if before == text else differing
        steps.append(Change(path, before, text, Action.CREATE if before is None else same))
    steps += _missing_packages(place, draft)
    if draft.entries:
        steps.append(_edit_tune(place, draft.entries, add_entry))
    return Plan(place, tuple(steps), draft.next_steps)


def plan_removal(place: Place, draft: Draft, *, force: bool = False, skip: bool = False) -> Plan:
    """Plan the steps that remove the draft, except files that were changed.

    ``force`` removes these too; ``skip`` keeps them, with the modules and templates that they name.
    tune.py loses the entries of the modules that go.
    """
    differing = Action.REMOVE if force else Action.KEEP if skip else Action.DIFFERS
    steps: list[Change] = []
    for name, text in draft.files.items():
        path = place.root / name
        before = _read(path)
        if before is not None:
            as_generated = before == tidy(place, path, text).encode()
            action = Action.REMOVE if as_generated else differing
            steps.append(Change(path, before, None, action))
    steps = _keep_named(place, steps)
    stay = {place.named(step.path) for step in steps if step.action is not Action.REMOVE}
    entries = tuple(entry for entry in draft.entries if entry.module not in stay)
    edited = _edit_tune(place, entries, remove_entry)
    steps += [edited] if edited.action is Action.EDIT else []
    going = {step.path for step in steps if step.action is Action.REMOVE}
    steps += _empty_packages(place, draft, going)
    lost_tasks = tuple(entry.name for entry in entries if entry.keyword == "tasks")
    return Plan(place, tuple(steps), draft.after_removal, lost_tasks)


def _keep_named(place: Place, steps: list[Change]) -> list[Change]:
    """Keep the files that a kept file imports or renders, and so on."""
    while True:
        kept = b"\n".join(step.before or b"" for step in steps if step.action is Action.KEEP)
        kept = kept.replace(b" import ", b".")  # of `from shop.tasks import send_report`
        named = [
            step
            for step in steps
            if step.action is Action.REMOVE and place.named(step.path).encode() in kept
        ]
        if not named:
            return steps
        steps = [replace(one, action=Action.KEEP) if one in named else one for one in steps]


def _missing_packages(place: Place, draft: Draft) -> Iterator[Change]:
    for folder in draft.packages:
        module, package = place.root / f"{folder}.py", place.root / folder
        if module.is_file() and not package.is_dir():
            raise CommandError(
                f"{folder}.py is a module, and a package is needed. Type:  mkdir {folder} && "
                f"git mv {folder}.py {folder}/__init__.py"
            )
        if not (package / "__init__.py").exists():
            yield Change(package / "__init__.py", None, b"", Action.CREATE)


def _empty_packages(place: Place, draft: Draft, going: set[Path]) -> Iterator[Change]:
    """Yield steps that remove empty packages, the deepest first; keep those of a new project."""
    for folder in reversed(draft.packages):
        package = place.root / folder
        init = package / "__init__.py"
        if _read(init) != b"" or folder.removeprefix(f"{place.source}/") in {"tasks", "frontend"}:
            continue
        rest = {path for path in package.iterdir() if path.name != "__pycache__"}
        if rest - {init} <= going | {path.parent for path in going if path.name == "__init__.py"}:
            going.add(init)
            yield Change(init, b"", None, Action.REMOVE)


def _edit_tune(
    place: Place, entries: tuple[Entry, ...], edit: Callable[[str, Entry], str]
) -> Change:
    """Edit tune.py; format it afterwards only if it was formatted before."""
    before = place.tune.read_bytes()
    try:
        text = before.decode()
    except UnicodeDecodeError:
        raise CommandError(f"{place.tune} can't be edited: it is not UTF-8") from None
    edited = text
    for entry in entries:
        edited = edit(edited, entry)
    if edited == text:
        return Change(place.tune, before, before, Action.UNCHANGED)
    if tidy(place, place.tune, text) == text:
        edited = tidy(place, place.tune, edited)
    return Change(place.tune, before, edited.encode(), Action.EDIT)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandError(f"{path} can't be read ({error.strerror})") from None
