"""Notes the start and the end of each run of a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex

from streaq import TaskContext
from streaq.task import RegisteredTask

from chaos.journal import note
from vibetuner.tasks.attempt import Cut, current_attempt

__all__ = ["recorded"]


@contextmanager
def recorded(task: RegisteredTask, *, group: str = "") -> Iterator[TaskContext]:
    """Note the run of a task's body; tasks of one ``group`` run one at a time."""
    run, token = task.context, token_hex(6)
    facts = {"group": group} if group else {}
    note("start", id=run.task_id, kind=run.fn_name, tries=run.tries, run=token, **facts)
    outcome = "done"
    try:
        yield run
    except Exception:
        outcome = "raised"
        raise
    except BaseException:
        attempt = current_attempt()  # a clock can't tell a timeout from a stop at that moment
        is_late = attempt is not None and attempt.cut_by is Cut.TIME_LIMIT
        outcome = "timeout" if is_late else "cancelled"
        raise
    finally:
        note("end", id=run.task_id, run=token, outcome=outcome)
