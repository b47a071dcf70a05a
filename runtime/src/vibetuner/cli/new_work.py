"""Carries out the plans of `vibetuner new` and `vibetuner destroy`, and reports on them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from vibetuner.cli.console import Console, print_json
from vibetuner.errors import CommandError
from vibetuner.scaffold.changes import Action, Change, apply_changes, diff, uninterrupted
from vibetuner.scaffold.draft import EJECTED, Draft, find_place, list_templates
from vibetuner.scaffold.plan import Plan, plan_new

COLOURS = {
    Action.CREATE: "green",
    Action.EDIT: "cyan",
    Action.OVERWRITE: "yellow",
    Action.REMOVE: "red",
    Action.KEEP: "dim",
    Action.UNCHANGED: "dim",
    Action.DIFFERS: "yellow",
}


def carry_out(
    plan: Plan, *, dry_run: bool, as_json: bool, facts: dict[str, Any] | None = None
) -> None:
    """Write the planned files, unless files differ; with ``dry_run``, only show the whole diff.

    ``facts`` are further entries of the JSON document.

    Raises CommandError if files differ, and none was written.
    """
    blocked = bool(plan.conflicts)
    written = not (blocked or dry_run)
    # Ctrl-C while files are written must not hide what was done.
    with uninterrupted() if written else nullcontext():
        if written:
            apply_changes(plan.changes)
        if as_json:
            _print_json(plan, written=written, facts=facts or {})
        elif written:
            _print_done(plan)
        else:
            _print_diff(plan, [*plan.changes, *plan.conflicts] if dry_run else plan.conflicts)
    if blocked:
        names = ", ".join(map(plan.path_of, plan.conflicts))
        raise CommandError(
            f"Nothing was written: {names} would be different. --force takes the new text, "
            "--skip keeps the old"
            if plan.conflicts[0].after is not None
            else f"Nothing was removed. Changed since it was generated: {names}. --force removes "
            "that all the same, --skip keeps it"
        )


def check_choice(*, force: bool, skip: bool) -> None:
    """Raise CommandError if both options are given."""
    if force and skip:
        raise CommandError("--force overwrites and --skip keeps: choose one")


def eject() -> None:
    """Copy the templates into the project; files that exist are kept."""
    place = find_place()
    files = {f"{EJECTED}/{name}": text for name, text in list_templates().items()}
    draft = Draft(
        files=files, next_steps=(f"$EDITOR {EJECTED}/task.py.jinja", "vibetuner new task NAME")
    )
    carry_out(plan_new(place, draft, skip=True), dry_run=False, as_json=False)


def _print_done(plan: Plan) -> None:
    console = Console()
    if not plan.changes and all(step.action is Action.UNCHANGED for step in plan.steps):
        console.print("unchanged")
        return
    for step in plan.steps:
        if step.action is not Action.UNCHANGED:
            console.print(f"{step.action:>9}", style=COLOURS[step.action], end="  ")
            console.print(plan.path_of(step))
    if plan.next_steps:
        console.print("Next:")
        for command in plan.next_steps:
            console.print(f"    {command}")


def _print_diff(plan: Plan, changes: list[Change]) -> None:
    console = Console()
    for line in diff(changes, plan.place.root).splitlines():
        console.print(line, style={"+": "green", "-": "red", "@": "cyan"}.get(line[:1]))
    if not changes:
        console.print("unchanged")


def _print_json(plan: Plan, *, written: bool, facts: dict[str, Any]) -> None:
    document = {
        "written": written,
        "files": [_described(plan, step) for step in plan.steps if step.action is not Action.EDIT],
        "edits": [_described(plan, step) for step in plan.steps if step.action is Action.EDIT],
        "next": list(plan.next_steps),
        **facts,
    }
    print_json(document)


def _described(plan: Plan, step: Change) -> dict[str, str]:
    shown = diff([step], plan.place.root)
    return {"path": plan.path_of(step), "action": step.action.value, "diff": shown}
