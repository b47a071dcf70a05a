"""``@robust_task()``: retries a task that fails, and keeps a dead letter in the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

from streaq.types import CronDecorator

from vibetuner.errors import GiveUp
from vibetuner.tasks.call import TaskDecorator
from vibetuner.tasks.depends import is_injected
from vibetuner.tasks.limits import check_options
from vibetuner.tasks.retry import (
    ErrorRules,
    Errors,
    FailurePolicy,
    OnFailure,
    RetryLater,
    RetryPolicy,
    check_number,
    set_policy,
)
from vibetuner.tasks.unique import Unique
from vibetuner.tasks.worker import get_worker

__all__ = ["GiveUp", "RetryLater", "Unique", "robust_cron", "robust_task"]

# A payload is kept this long after its expiry, so that the dead letter has its arguments.
KEPT_AFTER_EXPIRY = timedelta(days=7)


def robust_task(  # noqa: PLR0913 - the guide's parameters
    max_retries: int = 3,
    backoff_base: float = 2.0,
    backoff_max: float = 300.0,
    timeout: timedelta | int | None = None,
    on_failure: OnFailure | None = None,
    *,
    jitter: float = 0.0,
    give_up_on: Errors = (),
    retry_on: Errors = (),
    unique: Unique | bool = False,
    **task_kwargs: Any,
) -> TaskDecorator:
    """Register a task that is tried again after an exception, a timeout or a lost worker.

    Args:
        max_retries: how often it is run at the most, the first time included.
        backoff_base: after try n the wait is ``backoff_base ** n`` seconds.
        backoff_max: and never longer than this, in seconds.
        timeout: the limit of one try, in seconds; a try that takes longer has failed like any
            other. A function that is not async can't be stopped: its thread runs on, unheard.
        on_failure: called with task name, task id and exception once no try is left, and with
            the task's ``args`` and ``kwargs`` where it declares them after a star; sync or
            async, for 30 seconds at the most. What it raises is logged and changes nothing.
        jitter: 0.2 draws each wait from the upper fifth of the formula's.
        give_up_on: errors that no other try can mend, a class or a tuple of them: the task is a
            dead letter at once, with the cause ``gave_up``, as it is after :class:`GiveUp`.
        retry_on: try again after these errors only. Of all listed classes the one that is nearest
            to the error's own decides. A timeout and a lost worker are always tried again.
        unique: with True, a call fails that begins while another one runs, and a ``timeout`` is
            needed; :class:`Unique` compares arguments, and has gentler ways.
        task_kwargs: go to ``worker.task()``: ``name``, ``expire``, ``ttl``, ``silent``.

    Raises:
        TypeError, ValueError: a parameter of a wrong kind or out of range, at decoration.
    """
    retry = _retry_policy(max_retries, backoff_base, backoff_max, jitter)
    policy = FailurePolicy(
        retry=retry,
        errors=_rules(give_up_on, retry_on),
        limit=_limit("timeout", timeout),
        expire=_limit("expire", task_kwargs.pop("expire", None)),
        on_failure=_callable(on_failure),
        unique=unique if isinstance(unique, Unique) else None,
    )
    options = _options(policy, task_kwargs)
    if policy.unique is None:
        check_options(unique=unique)
        options["unique"] = unique
    if options.get("unique") and timeout is None:
        raise ValueError("unique=True needs timeout=: for that long, and a little, the lock holds")
    return cast("TaskDecorator", _decorator(policy, lambda: get_worker().task(**options)))


def robust_cron(  # noqa: PLR0913, PLR0917 - as robust_task
    tab: str,
    max_retries: int = 3,
    backoff_base: float = 2.0,
    backoff_max: float = 300.0,
    timeout: timedelta | int = timedelta(hours=1),
    on_failure: OnFailure | None = None,
    *,
    jitter: float = 0.0,
    give_up_on: Errors = (),
    retry_on: Errors = (),
    **cron_kwargs: Any,
) -> CronDecorator:
    """Run a function on a schedule, with the policy of :func:`robust_task`.

    Args:
        tab: when, as five crontab fields, in UTC.
        cron_kwargs: go to ``worker.cron()``: ``name``, ``max_schedule_drift``, ``ttl``, ``unique``.

    Raises:
        TypeError, ValueError: a parameter of a wrong kind or out of range, at decoration.
    """
    if isinstance(cron_kwargs.get("unique"), Unique):
        raise TypeError(
            "A schedule takes unique=True or unique=False, as its runs have no arguments, not "
            f"{cron_kwargs['unique']!r}. To have one wait for another, enqueue a @robust_task() "
            "from it"
        )
    policy = FailurePolicy(
        retry=_retry_policy(max_retries, backoff_base, backoff_max, jitter),
        errors=_rules(give_up_on, retry_on),
        limit=_limit("timeout", timeout),
        on_failure=_callable(on_failure),
    )
    options = _options(policy, cron_kwargs)
    return cast("CronDecorator", _decorator(policy, lambda: get_worker().cron(tab, **options)))


def _retry_policy(
    max_retries: int, backoff_base: float, backoff_max: float, jitter: float
) -> RetryPolicy:
    return RetryPolicy(
        max_tries=max_retries,
        base=backoff_base,
        cap=timedelta(seconds=check_number("backoff_max", backoff_max)),
        jitter=jitter,
    )


def _rules(give_up_on: Errors, retry_on: Errors) -> ErrorRules | None:
    if give_up_on == () and retry_on == ():
        return None
    return ErrorRules(give_up_on, retry_on)


def _callable(on_failure: OnFailure | None) -> OnFailure | None:
    if on_failure is not None and not callable(on_failure):
        raise TypeError(f"on_failure takes a function, not {on_failure!r}")
    return on_failure


def _limit(name: str, given: timedelta | int | None) -> timedelta | None:
    if given is None:
        return None
    limit = given
    if not isinstance(limit, timedelta):
        limit = timedelta(seconds=check_number(name, limit))
    if limit <= timedelta(0):
        raise ValueError(f"{name} takes more than 0 seconds, not {given!r}")
    return limit


def _options(policy: FailurePolicy, given: dict[str, Any]) -> dict[str, Any]:
    """The options for ``worker.task()``; a timeout that is retried is the policy's affair."""
    for name in ("max_tries", "retry_timeouts"):
        if name in given:
            raise TypeError(f"{name}= is decided by max_retries= here; leave it out")
    if policy.expire is not None:
        given = {"expire": policy.expire + KEPT_AFTER_EXPIRY, **given}
    return {"max_tries": policy.retry.max_tries, "timeout": policy.limit, **given}


def _parameters(function: Any) -> list[str]:
    """The names of those that a caller passes."""
    sign = inspect.signature(function)
    return [name for name, one in sign.parameters.items() if not is_injected(one.default)]


def _decorator(policy: FailurePolicy, register: Callable[[], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        unique = policy.unique and policy.unique.of(function.__qualname__, _parameters(function))
        task = register()(function)
        set_policy(task, replace(policy, unique=unique))
        if unique is not None:
            task.unique = True
        return task

    return decorate
