"""Unique tasks: which calls are the same, and what happens to the second one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from typing import Any, Literal, get_args

from pydantic_core import PydanticSerializationError, to_jsonable_python

from vibetuner.errors import TaskError

Clash = Literal["skip", "wait", "replace", "fail"]


@dataclass(frozen=True, slots=True)
class Unique:
    """The calls of a task that are the same, and what happens when there are two of them.

    A call *is there* from its enqueue until its end, retries included.

    Args:
        by: the parameters that make two calls the same: names, or ``"all"``. By default there are
            none, so that any two calls of the task are the same.
        clash: what happens to a call while another one is there.

            ``"skip"``: it is not enqueued; ``enqueue`` returns the task that is there.
            ``"wait"``: it runs after the other one, in order, and takes no slot while it waits.
            ``"replace"``: a waiting task gets the call's arguments and delay, and ``enqueue``
            returns that task; a running one is aborted, and the call follows it.
            ``"fail"``: as with ``unique=True``: it fails if the other one runs when its turn comes.

    Raises:
        TypeError, ValueError: ``by`` or ``clash`` is not one of these.
    """

    by: Sequence[str] = ()
    clash: Clash = "skip"

    def __post_init__(self) -> None:
        if self.clash not in get_args(Clash):
            known = ", ".join(map(repr, get_args(Clash)))
            raise ValueError(f"clash takes one of {known}, not {self.clash!r}")
        if isinstance(self.by, str):
            if self.by != "all":
                raise TypeError(f"by takes names, not one: by=({self.by!r},)")
        elif not all(isinstance(name, str) for name in self.by):
            raise TypeError(f'by takes names of parameters, or "all", not {self.by!r}')

    @property
    def has_line(self) -> bool:
        """Return whether uniqueness is decided when a call is enqueued."""
        return self.clash != "fail"

    def of(self, task: str, parameters: Sequence[str]) -> Unique:
        """Return the same rule for a task with these parameters, with ``by`` as a list of names.

        Raises:
            ValueError: ``by`` names an unknown parameter.
        """
        if self.by == "all":
            return replace(self, by=tuple(parameters))
        if wrong := [name for name in self.by if name not in parameters]:
            has = ", ".join(parameters) or "none"
            raise ValueError(
                f"Unique(by=...) names {', '.join(wrong)}, and {task} has no such parameter. "
                f"It has: {has}"
            )
        return self

    def group(
        self,
        function: Callable[..., Any],
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> str:
        """Return a text that is equal for calls that are the same.

        >>> def charge(account_id: int, cents: int = 0): ...
        >>> unique = Unique(by=("account_id",))
        >>> unique.group(charge, "charge", (7, 5), {}) == unique.group(
        ...     charge, "charge", (), {"cents": 9, "account_id": 7}
        ... )
        True

        Raises:
            TaskError: the arguments don't fit the function, or can't be compared.
        """
        if not self.by:
            return name
        try:
            bound = signature_of(function).bind(*args, **kwargs)
        except TypeError as error:
            raise TaskError(f"{name}: {error}, and the task is unique by its arguments") from None
        bound.apply_defaults()
        values = {one: _comparable(name, one, bound.arguments[one]) for one in self.by}
        digest = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return f"{name}:{digest[:32]}"


def _comparable(task: str, name: str, value: Any) -> Any:
    try:
        plain = to_jsonable_python(value, bytes_mode="base64")
        json.dumps(plain, sort_keys=True)
    except (PydanticSerializationError, TypeError, ValueError):
        raise TaskError(
            f"{task} is unique by {name}=, and a {type(value).__name__} can't be compared. Pass "
            "plain data, such as an id, or name other parameters in by="
        ) from None
    if isinstance(value, set | frozenset):  # sets have no order
        return sorted(plain, key=repr)
    return plain


@cache
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature; to make one takes longer than all else that a call needs."""
    return inspect.signature(function)
