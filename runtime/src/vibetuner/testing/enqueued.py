"""Checks of the tasks that a test enqueued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from streaq.task import RegisteredTask, Task


def check_enqueued(
    calls: list[Task[Any, Any]],
    task: RegisteredTask,
    args: Sequence[Any] | Mapping[str, Any] | None,
    times: int | None,
) -> None:
    """Raise AssertionError, which lists the calls, unless ``task`` was enqueued like this."""
    if not isinstance(task, RegisteredTask):
        raise TypeError(f"assert_enqueued takes a task, not {task!r}")
    if isinstance(args, str | bytes) or not isinstance(args, Sequence | Mapping | None):
        raise TypeError(f"args takes the arguments in a tuple: args=({args!r},)")
    if times is not None:
        check_count("times", times)
    same = [call for call in calls if call.parent.fn_name == task.fn_name]
    fitting = same if args is None else [call for call in same if _has(call, args)]
    if len(fitting) == times or (times is None and fitting):
        return
    wanted = task.fn_name if args is None else f"{task.fn_name}{_shown(args)}"
    often = "once or more" if times is None else _often(times)
    lines = [f"\n  {one.parent.fn_name}{_shown(one.args, one.kwargs)}" for one in same or calls]
    raise AssertionError(
        f"{wanted} should have been enqueued {often}, and was {_often(len(fitting))}.\n"
        f"Enqueued: {''.join(lines) or 'nothing'}"
    )


def check_count(name: str, value: object, least: int = 0) -> None:
    """Raise ValueError unless the argument is a whole number, and ``least`` or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} takes a whole number, {least} or more, not {value!r}")


def _has(call: Task[Any, Any], args: Sequence[Any] | Mapping[str, Any]) -> bool:
    function = call.parent.fn  # type: ignore[attr-defined]
    given, named = ((), args) if isinstance(args, Mapping) else (args, {})
    try:
        expected = signature(function).bind(*given, **named)
        actual = signature(function).bind(*call.args, **call.kwargs)
    except TypeError:
        return (tuple(given), dict(named)) == (tuple(call.args), dict(call.kwargs))
    expected.apply_defaults()
    actual.apply_defaults()
    return bool(expected.arguments == actual.arguments)


def _shown(args: Sequence[Any] | Mapping[str, Any], kwargs: Mapping[str, Any] | None = None) -> str:
    named = args if isinstance(args, Mapping) else kwargs or {}
    given = () if isinstance(args, Mapping) else args
    return f"({', '.join([*map(repr, given), *(f'{k}={v!r}' for k, v in named.items())])})"


def _often(times: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(times, f"{times} times")
