"""The commands that change something: ``abort`` and ``enqueue``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vibetuner.tasks.overview.queue import Queue

__all__ = ["abort", "enqueue"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def abort(
    task_id: Annotated[
        str, typer.Argument(metavar="ID", help="Its id, or the first 8 characters.")
    ],
    as_json: AsJson = False,
) -> None:
    """End a task, wherever it is.

    Exit code 0 when it has ended, or will before it is begun; 1 when it had ended already; 3 when
    nothing is known of it.
    """
    from vibetuner.cli.task_queue import run
    from vibetuner.cli.task_view import print_json
    from vibetuner.tasks.overview.steer import abort as abort_task

    async def end(queue: Queue, whole: str) -> tuple[str, bool]:
        return whole, await abort_task(queue, whole)

    whole, is_ended = run(end, of=task_id)
    if as_json:
        print_json({"id": whole, "aborted": is_ended})
    elif is_ended:
        print(f"{whole} is aborted")
    else:
        print(f"{whole} is marked: the worker that takes it ends it. If it does not end:")
        print(f"Next:  vibetuner tasks why {whole}")


def enqueue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task's name.")],
    args: Annotated[str, typer.Option(help="Its arguments as a JSON list.")] = "[]",
    kwargs: Annotated[str, typer.Option(help="Its named arguments as a JSON object.")] = "{}",
    as_json: AsJson = False,
) -> None:
    """Enqueue a task of the project, once its arguments fit its function."""
    from vibetuner.cli.task_queue import run
    from vibetuner.cli.task_view import print_json
    from vibetuner.tasks.overview.steer import enqueue as enqueue_task

    positional = _parse("--args", args, list)
    named = _parse("--kwargs", kwargs, dict)
    task_id = run(lambda queue: enqueue_task(queue, name, positional, named), with_project=True)
    if as_json:
        print_json({"id": task_id, "task": name})
    else:
        print(task_id)
        print(f"Next:  vibetuner tasks show {task_id}")


def _parse(option: str, text: str, kind: type) -> Any:
    import json

    from vibetuner.errors import CommandError

    example = """'["acme", 3]'""" if kind is list else """'{"user_id": "7"}'"""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} takes JSON such as {example}: {error}") from None
    if not isinstance(value, kind):
        raise CommandError(f"{option} takes JSON such as {example}, not {text}")
    return value
