"""``@robust_task()``: retries a task that fails, and in the end keeps a dead letter."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

from streaq import Worker
from streaq.types import CronDecorator

from vibetuner.errors import GiveUp, suggest
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

# Parameters of decorators that no one passes by these names.
NOT_NAMED = {"self", "fn", "tab", "max_tries", "retry_timeouts", "task_kwargs", "cron_kwargs"}


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
        max_retries: the largest number of tries, including the first.
        backoff_base: after try n the wait is ``backoff_base ** n`` seconds.
        backoff_max: the longest wait, in seconds.
        timeout: the limit of one try, as a timedelta or in seconds; exceeding it is a failure like
            any other. A function that is not async can't be stopped: its thread runs on, and its
            result is ignored.
        on_failure: called with task name, task id and exception when no try is left, and with the
            task's ``args`` and ``kwargs`` if it declares them as keyword-only parameters; sync or
            async, for at most 30 seconds. An exception that it raises is logged and changes
            nothing.
        jitter: with 0.2, each wait is drawn from the upper fifth of the formula's.
        give_up_on: errors that another try can't cure, a class or a tuple of them: the task becomes
            a dead letter at once, with the cause ``gave_up``, as after :class:`GiveUp`.
        retry_on: try again after these errors only. Of all listed classes, the nearest base class
            of the error decides. A timeout and a lost worker are always tried again.
        unique: with True, a call that begins while another one runs fails, and a ``timeout`` is
            required; :class:`Unique` compares arguments, and can also skip, wait or replace.
        task_kwargs: passed to ``worker.task()``: ``name``, ``expire``, ``ttl``, ``silent``.

    Raises:
        TypeError, ValueError: a parameter has a wrong type or is out of range, at decoration.
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
    options = _options(policy, task_kwargs, robust_task, Worker.task)
    if policy.unique is None:
        check_options(unique=unique)
        options["unique"] = unique
    if options.get("unique") and timeout is None:
        raise ValueError("unique=True needs timeout=, because other calls fail while one runs")
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
        tab: the schedule, as five crontab fields, in UTC.
        cron_kwargs: passed to ``worker.cron()``: ``name``, ``max_schedule_drift``, ``ttl``,
            ``unique``.

    Raises:
        TypeError, ValueError: a parameter has a wrong type or is out of range, at decoration.
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
    options = _options(policy, cron_kwargs, robust_cron, Worker.cron)
    return cast("CronDecorator", _decorator(policy, lambda: get_worker().cron(tab, **options)))


def _retry_policy(
    max_retries: int, backoff_base: float, backoff_max: float, jitter: float
) -> RetryPolicy:
    check_options(backoff_max=check_number("backoff_max", backoff_max))
    return RetryPolicy(
        max_tries=max_retries, base=backoff_base, cap=timedelta(seconds=backoff_max), jitter=jitter
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
    check_options(**{name: given})
    return given if isinstance(given, timedelta) else timedelta(seconds=given)


def _options(
    policy: FailurePolicy, given: dict[str, Any], *decorators: Callable[..., Any]
) -> dict[str, Any]:
    """Return the options for ``worker.task()``; the policy handles a timeout that is retried."""
    for name in ("max_tries", "retry_timeouts"):
        if name in given:
            raise TypeError(f"{name}= is decided by max_retries= here; leave it out")
    if given:
        taken = {name for one in decorators for name in _parameters(one)} - NOT_NAMED | {"queue"}
        for name in given.keys() - taken:
            hint = suggest(name, taken, f"It takes {', '.join(sorted(taken))}", "{}=")
            raise TypeError(f"{decorators[0].__name__}() takes no {name}=. {hint}")
    if policy.expire is not None:
        given = {"expire": policy.expire + KEPT_AFTER_EXPIRY, **given}
    return {"max_tries": policy.retry.max_tries, "timeout": policy.limit, **given}


def _parameters(function: Any) -> list[str]:
    """Return the names of the parameters that a caller passes."""
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
