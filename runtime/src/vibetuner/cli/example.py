"""``vibetuner destroy example``: turns a project into one that was made without the example.

The template itself defines the example: it is rendered at the version that made the project, with
the example and without, and the differences between the two are removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from vibetuner.cli.console import note_wait
from vibetuner.cli.template_news import ANSWERS, answers_of, check_committed, read_answers, run_tool
from vibetuner.errors import CommandError
from vibetuner.scaffold.changes import Action, Change
from vibetuner.scaffold.draft import Place
from vibetuner.scaffold.plan import Plan

OURS = ("src", "tests", "README.md")
NEXT_STEPS = ("git diff --stat", "uv run just check")


def answers_with_example(root: Path) -> str:
    """Return the answers of a project with the example, as YAML.

    Raises CommandError if there is no example, or something is not committed.
    """
    if not (answers := answers_of(root)):
        raise CommandError(f"There is no {ANSWERS}, so the template that made this is not known")
    if re.search(r"(?m)^example: false$", answers):
        raise CommandError("There is no example: this project is one without")
    check_committed(root)
    return answers


def plan_without_example(place: Place, answers: str, *, force: bool, skip: bool) -> Plan:
    """Plan to remove the example; a file that was changed since it was generated is a conflict.

    Raises CommandError if the template can't be rendered.
    """
    note_wait("rendering the template with the example and without, to compare")
    with TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        # Those that made the project; an update changes only the version in them.
        first, git = answers, partial(run_tool, "git", cwd=place.root)
        if commits := git("log", "--format=%H", "--", ANSWERS).split():
            first = git("show", f"{commits[-1]}:./{ANSWERS}") or answers
        rendered = pool.submit(_render, first, Path(folder) / "with", example=True)
        wanted = _render(answers, Path(folder) / "without", example=False)
        generated = rendered.result()
    steps = list(_steps(place.root, generated, wanted, force=force, skip=skip))
    without, known = re.subn(r"(?m)^example: .*$", "example: false", answers)
    without += "" if known else "example: false\n"
    steps.append(Change(place.root / ANSWERS, answers.encode(), without.encode()))
    return Plan(place, tuple(steps), NEXT_STEPS)


def _steps(
    root: Path, generated: dict[str, bytes], wanted: dict[str, bytes], *, force: bool, skip: bool
) -> Iterator[Change]:
    for name in sorted(generated.keys() | wanted.keys()):
        path, after = root / name, wanted.get(name)
        before = path.read_bytes() if path.is_file() else None
        if generated.get(name) == after or before == after:
            continue
        if before is None and name in generated:
            continue  # already removed
        if before != generated.get(name):
            # Everybody rewrites the README, and nothing depends on it.
            keep = skip or name == "README.md"
            if keep or not force:
                action = Action.KEEP if keep else Action.DIFFERS
                yield Change(path, before, after, action)
                continue
        kinds = {before is None: Action.CREATE, after is None: Action.REMOVE}
        yield Change(path, before, after, kinds.get(True, Action.EDIT))


def _render(answers: str, folder: Path, *, example: bool) -> dict[str, bytes]:
    """Render the template and return the user's files by path."""
    known = read_answers(answers)
    folder.mkdir()
    data = folder.with_suffix(".yml")
    data.write_text(re.sub(r"(?m)^_\w+: .*\n(?: +.*\n)*", "", answers), encoding="utf-8")
    version = ("--vcs-ref", known["_commit"]) if "_commit" in known else ()
    run_tool(
        "uvx", "copier>=9.15", "copy", "--defaults", "--quiet", "--data-file", str(data),
        "--data", f"example={str(example).lower()}", *version, known["_src_path"], str(folder),
        cwd=folder,
    )  # fmt: skip
    files = (path for name in OURS for path in (folder / name, *(folder / name).rglob("*")))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()
    }
