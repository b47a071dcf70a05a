"""Parameters of ``@robust_task`` and ``@robust_cron`` that are refused at decoration."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from vibetuner.tasks.retry import wanted_arguments
from vibetuner.tasks.robust import Unique, robust_cron, robust_task


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"unique": True}, ValueError, "^unique=True needs timeout=, because"),
        ({"on_failure": "mail"}, TypeError, "^on_failure takes a function, not 'mail'$"),
        ({"timeout": 0}, ValueError, "^timeout takes more than 0 seconds, not 0$"),
        ({"timeout": timedelta(seconds=-1)}, ValueError, "^timeout takes more than 0 seconds"),
        ({"expire": 0}, ValueError, "^expire takes more than 0 seconds, not 0$"),
        (
            {"max_retry": 2},
            TypeError,
            r"^robust_task\(\) takes no max_retry=\. Did you mean max_re",
        ),
        ({"colour": 2}, TypeError, r"^robust_task\(\) takes no colour=\. It takes backoff_base, "),
        ({"timeout": 10**12}, ValueError, "^timeout takes at most ten years, not 1000000000000;"),
        ({"max_tries": 2}, TypeError, "^max_tries= is decided by max_retries= here; leave it out$"),
        ({"retry_timeouts": True}, TypeError, "^retry_timeouts= is decided by max_retries="),
    ],
)
def test_a_wrong_parameter_is_refused_at_decoration(
    options: dict[str, Any], error: type[Exception], message: str
):
    """A wrong parameter raises an error in the module that declares the task."""
    with pytest.raises(error, match=message):
        robust_task(**options)


def test_a_schedule_has_no_arguments_to_compare():
    """robust_cron() raises TypeError for a Unique, as its runs have no arguments."""
    with pytest.raises(
        TypeError, match=r"^A schedule takes unique=True .* not Unique\(by=\(\), cla"
    ):
        robust_cron("* * * * *", unique=Unique(by=()))


def test_a_function_without_a_signature_gets_no_arguments():
    """A function without a signature, as one written in C, gets no arguments."""
    assert wanted_arguments(max, (7,), {"by": 1}) == {}
