"""Notes the start and the end of each run of a task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex

from streaq import TaskContext
from streaq.task import RegisteredTask

from chaos.journal import note

__all__ = ["recorded"]

# An event loop measures a limit from the start of its iteration, uvloop in milliseconds.
CLOCK_SECONDS = 0.02


@contextmanager
def recorded(
    task: RegisteredTask, limit: float | None = None, *, group: str = ""
) -> Iterator[TaskContext]:
    """Note the run of a task's body.

    ``limit`` is its timeout, to tell it from a planned stop. Tasks of one ``group`` run one at a
    time.
    """
    run, token, began = task.context, token_hex(6), time.monotonic()
    facts = {"group": group} if group else {}
    note("start", id=run.task_id, kind=run.fn_name, tries=run.tries, run=token, **facts)
    outcome = "done"
    try:
        yield run
    except Exception:
        outcome = "raised"
        raise
    except BaseException:
        late = limit is not None and time.monotonic() - began >= limit - CLOCK_SECONDS
        outcome = "timeout" if late else "cancelled"
        raise
    finally:
        note("end", id=run.task_id, run=token, outcome=outcome)
