"""The ledger of the chaos run, tested on journals that are written by hand."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from chaos.faults import Topology, plan
from chaos.ledger import Ledger, Letter, Row, Stored, judge
from chaos.outbox import Database
from chaos.table import show

WORKER, OTHER = 100, 200


class Journal:
    """The journal of a run, written by hand; each line is a second later than the last one."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def say(self, what: str, **facts: Any) -> None:
        entry = {"at": float(len(self.notes)), "what": what, "pid": 1}
        self.notes.append(entry | facts)

    def accept(self, name: str = "a", kind: str = "slow") -> None:
        self.say("accepted", id=name, kind=kind)

    def start(self, tries: int, *, pid: int = WORKER, name: str = "a", kind: str = "slow") -> None:
        self.say("start", id=name, kind=kind, tries=tries, pid=pid, run=f"{name}-{pid}-{tries}")

    def end(self, tries: int, outcome: str, *, pid: int = WORKER, name: str = "a") -> None:
        self.say("end", id=name, pid=pid, run=f"{name}-{pid}-{tries}", outcome=outcome)

    def run(self, tries: int, outcome: str, *, pid: int = WORKER, name: str = "a") -> None:
        self.start(tries, pid=pid, name=name)
        self.end(tries, outcome, pid=pid, name=name)

    def fault(self, effect: str, *pids: int, kind: str = "a fault", number: int = 1) -> None:
        self.say("fault", number=number, kind=kind, effect=effect, pids=list(pids))

    def mend(self, number: int = 1) -> None:
        self.say("mended", number=number)


@pytest.fixture
def journal() -> Journal:
    return Journal()


def only_row(ledger: Ledger) -> Row:
    (row,) = ledger.rows.values()
    return row


def letter(cause: str | None, *, tries: int = 1, at: float = 1000.0) -> Letter:
    return Letter("slow", cause, tries, at)


def test_a_task_that_ran_to_its_end_is_done(journal: Journal):
    """A task counts as done if the journal has its end, even if no store knows it."""
    journal.accept()
    journal.run(1, "done")

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, done=1)
    assert ledger.is_clean


def test_a_task_with_a_dead_letter_is_dead(journal: Journal):
    """A task with a dead letter counts as dead, and the letter's cause is counted."""
    journal.accept()
    journal.run(1, "raised")

    ledger = judge(journal.notes, Stored(letters={"a": letter("exception")}))

    assert only_row(ledger) == Row(accepted=1, dead=1)
    assert ledger.causes == {"exception": 1}
    assert ledger.is_clean


@pytest.mark.parametrize("stored", [Stored(), Stored(results={"a": "aborted"})])
def test_a_task_that_was_aborted_is_aborted(journal: Journal, stored: Stored):
    """A task counts as aborted by the answer to its abort, or else by its stored result."""
    journal.accept()
    journal.start(1)
    journal.say("abort", id="a", answer="error" if stored.results else "yes")
    journal.end(1, "cancelled")

    assert only_row(judge(journal.notes, stored)) == Row(accepted=1, aborted=1)


def test_a_task_without_an_end_is_lost(journal: Journal):
    """A task without an end counts as lost; its lines are listed, and the run isn't clean."""
    journal.accept()
    journal.start(1)

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, lost=1)
    assert [(lost.task_id, lost.stored) for lost in ledger.lost] == [("a", "no trace")]
    assert [line["what"] for line in ledger.lost[0].lines] == ["accepted", "start"]
    assert not ledger.is_clean


def test_a_failure_without_a_dead_letter_is_lost_too(journal: Journal):
    """A task that failed without a dead letter counts as lost."""
    journal.accept()
    journal.run(1, "raised")

    ledger = judge(journal.notes, Stored(results={"a": "failed"}))

    assert ledger.total.lost == 1
    assert ledger.lost[0].stored == "result: failed, no dead letter"


def test_a_task_that_still_waits_is_not_lost_and_not_clean(journal: Journal):
    """A task that still waits counts as queued, and the run isn't clean."""
    journal.accept()

    ledger = judge(journal.notes, Stored(queued=frozenset({"a"})))

    assert only_row(ledger) == Row(accepted=1, queued=1)
    assert not ledger.is_clean


def test_an_enqueue_that_raised_promised_nothing(journal: Journal):
    """A task whose enqueue raised is counted apart, and can't be lost."""
    journal.accept("b")
    journal.run(1, "done", name="b")
    journal.say("unknown", id="a", kind="slow")
    journal.say("unknown", id="c", kind="slow")
    journal.run(1, "done", name="c")

    ledger = judge(journal.notes, Stored())

    assert ledger.total.accepted == 1
    assert ledger.unknown == {"all": 2, "never begun": 1, "done": 1}
    assert ledger.is_clean


def test_a_cron_task_is_accepted_when_it_begins(journal: Journal):
    """A cron task is accepted when it begins; it has a row of its own and can be lost."""
    journal.start(1, kind="ticking")

    ledger = judge(journal.notes, Stored())

    assert ledger.rows == {"ticking (cron)": Row(accepted=1, lost=1)}


def test_a_task_that_completed_more_than_once_is_counted_and_no_fault(journal: Journal):
    """A task that two workers completed, one of them frozen meanwhile, is counted as twice."""
    journal.accept()
    journal.fault("freeze", WORKER)
    journal.start(1)
    journal.run(2, "done", pid=OTHER)
    journal.mend()
    journal.end(1, "done")

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, done=1, twice=1)
    assert ledger.is_clean


def test_a_task_can_be_done_and_have_a_dead_letter(journal: Journal):
    """A task that is done and has a dead letter counts as done, and is listed with two ends."""
    journal.accept()
    journal.run(1, "done")

    ledger = judge(journal.notes, Stored(letters={"a": letter("crashed", tries=0)}))

    assert only_row(ledger).done == 1
    assert ledger.two_ends == ["a"]


def test_a_try_is_burnt_when_a_planned_stop_alone_explains_it(journal: Journal):
    """A try counts as burnt if only a planned stop came between two runs."""
    journal.accept()
    journal.start(1)
    journal.fault("stop", WORKER)
    journal.end(1, "cancelled")
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, done=1, burnt=1)
    assert not ledger.is_clean


def test_a_planned_stop_that_costs_no_try_burns_none(journal: Journal):
    """A planned stop burns no try if the next run has the same number."""
    journal.accept()
    journal.start(1)
    journal.fault("stop", WORKER)
    journal.end(1, "cancelled")
    journal.mend()
    journal.run(1, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).is_clean


@pytest.mark.parametrize("outcome", ["raised", "timeout"])
def test_a_failed_try_counts_also_when_its_worker_is_stopped(journal: Journal, outcome: str):
    """A try that failed by itself isn't burnt, although its worker is stopped."""
    journal.accept()
    journal.start(1)
    journal.fault("stop", WORKER)
    journal.end(1, outcome)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).is_clean


@pytest.mark.parametrize("effect", ["kill", "freeze", "outage"])
def test_a_lost_worker_explains_a_try(journal: Journal, effect: str):
    """A worker that was killed, frozen or cut off from Redis explains a try."""
    journal.accept()
    journal.start(1)
    journal.fault(effect, WORKER)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    ledger = judge(journal.notes, Stored())

    assert ledger.total.burnt == ledger.total.unexplained == 0


def test_a_neighbour_that_kills_the_worker_explains_a_try(journal: Journal):
    """A poison pill that kills its worker explains a try of every task there."""
    journal.accept()
    journal.start(1)
    journal.say("suicide", pid=WORKER)
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).total.unexplained == 0


def test_the_loss_of_another_worker_explains_nothing(journal: Journal):
    """The loss of another worker, before the stop, doesn't explain a try, which counts as burnt."""
    journal.accept()
    journal.start(1)
    journal.fault("kill", OTHER)
    journal.mend()
    journal.fault("stop", WORKER, number=2)
    journal.end(1, "cancelled")
    journal.mend(2)
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).total.burnt == 1


def test_a_loss_between_two_runs_may_have_taken_a_try_that_left_no_line(journal: Journal):
    """A try without a line is explained by a worker that was killed before the run began."""
    journal.accept()
    journal.fault("kill", WORKER)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).is_clean


def test_a_stop_between_two_runs_must_not_take_a_try_either(journal: Journal):
    """A try without a line counts as burnt if the only fault before the run was a stop."""
    journal.accept()
    journal.fault("stop", WORKER)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).total.burnt == 1


def test_an_unexplained_try_is_counted_apart(journal: Journal):
    """A try without any fault counts as unexplained, and the run is clean.

    A busy machine may make a worker look lost.
    """
    journal.accept()
    journal.start(1)
    journal.run(2, "done", pid=OTHER)
    journal.end(1, "done")

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, done=1, twice=1, unexplained=1)
    assert ledger.is_clean


def test_a_task_that_is_buried_because_of_a_stop_has_burnt_a_try(journal: Journal):
    """A dead letter of a task that was only stopped shows a burnt try."""
    journal.accept()
    journal.start(1)
    journal.fault("stop", WORKER)
    journal.end(1, "cancelled")
    journal.mend()

    ledger = judge(journal.notes, Stored(letters={"a": letter("crashed", tries=1)}))

    assert only_row(ledger) == Row(accepted=1, dead=1, burnt=1)


@pytest.mark.parametrize("cause", [None, "", "bad luck"])
def test_a_dead_letter_must_name_a_cause_that_is_one(journal: Journal, cause: str | None):
    """A dead letter without a known cause is listed by the task's id."""
    journal.accept()

    ledger = judge(journal.notes, Stored(letters={"a": letter(cause)}))

    assert ledger.without_cause == ["a"]


def test_recovery_is_the_time_from_a_faults_end_to_the_next_completed_task(journal: Journal):
    """Recovery is the time from a fault's end to the next completed task, per kind and overall."""
    journal.accept()  # at 0
    journal.fault("outage", kind="valkey killed")  # at 1
    journal.mend()  # at 2
    journal.run(1, "raised")  # ends at 4
    journal.run(2, "done")  # ends at 6

    recovery = judge(journal.notes, Stored()).recovery

    assert recovery["valkey killed"].longest == 4
    assert recovery["any"].median == 4


def test_a_process_that_ended_unasked_is_named(journal: Journal):
    """A process that ended unasked is named with its exit code, and explains a try."""
    journal.accept()
    journal.start(1)
    journal.say("exit", name="worker-1", worker=WORKER, code=1)
    journal.run(2, "done", pid=OTHER)

    ledger = judge(journal.notes, Stored())

    assert ledger.exits == {"worker-1 with code 1": 1}
    assert ledger.total.unexplained == 0


def test_a_task_of_a_transaction_that_was_rolled_back_must_not_run(journal: Journal):
    """A task whose transaction was rolled back isn't counted; if it runs, a promise is broken."""
    journal.accept()
    journal.run(1, "done")
    journal.say("withdrawn", id="b", kind="committed")
    assert judge(journal.notes, Stored()).is_clean
    journal.run(1, "done", name="b")

    ledger = judge(journal.notes, Stored())

    assert ledger.broken == ["committed b ran, and its transaction was rolled back"]
    assert ledger.total.accepted == 1
    assert not ledger.is_clean
    assert "broken: committed b ran" in show(ledger)


def test_one_task_runs_under_a_key(journal: Journal):
    """A second task that runs under one idempotency key is listed as a broken promise.

    The task may be accepted often, and an enqueue that raised may have succeeded.
    """
    for verdict in ("accepted", "accepted", "unknown"):
        journal.say(verdict, id="b" if verdict == "unknown" else "a", kind="keyed", key="evt")
    journal.run(1, "done")
    assert judge(journal.notes, Stored()).is_clean
    journal.run(1, "done", name="b")

    ledger = judge(journal.notes, Stored())

    assert ledger.broken == ["2 tasks ran under the key evt: a, b"]
    assert only_row(ledger).accepted == 1


@pytest.mark.parametrize("durable", [False, True])
def test_a_key_may_be_lost_with_its_primary(journal: Journal, durable: bool):
    """A second task under a key is excused by a failover, unless tasks are enqueued durably."""
    journal.say("accepted", id="a", kind="keyed", key="evt")
    journal.fault("failover", kind="primary killed")
    journal.mend()
    journal.run(1, "done")
    for _ in range(5):
        journal.say("exit", name="worker-1", worker=WORKER, code=1)
    journal.say("accepted", id="b", kind="keyed", key="evt")
    journal.run(1, "done", name="b")

    ledger = judge(journal.notes, Stored(), durable=durable)

    assert ledger.broken == ["2 tasks ran under the key evt: a, b"] * durable


@pytest.mark.parametrize(("effect", "pid", "is_explained"), [
    ("kill", WORKER, True), ("outage", 1, True), ("kill", OTHER, False), ("stop", WORKER, False),
])  # fmt: skip
def test_a_task_is_done_twice_for_a_reason(
    journal: Journal, effect: str, pid: int, is_explained: bool
):
    """A task that is done twice is excused by the loss of its worker or of Redis."""
    journal.accept()
    journal.run(1, "done")
    journal.fault(effect, pid)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    ledger = judge(journal.notes, Stored())

    assert ledger.total.twice == 1
    said = ["slow a was done 2 times, nothing was lost"]
    assert ledger.broken == ([] if is_explained else said)


def test_a_run_without_tasks_is_not_clean():
    """A run without tasks isn't clean, as it proves nothing."""
    assert not judge([], Stored()).is_clean


@pytest.mark.parametrize("durable", [False, True])
def test_a_task_that_is_lost_with_its_primary_is_counted(journal: Journal, durable: bool):
    """A task accepted right before a failover counts as a gap, but as lost if it was durable."""
    journal.accept("early")
    journal.run(1, "done", name="early")
    journal.accept("gone")
    journal.fault("failover", kind="primary killed")
    journal.mend()

    ledger = judge(journal.notes, Stored(), durable=durable)

    assert only_row(ledger) == Row(accepted=2, done=1, lost=durable, gap=not durable)
    assert ledger.is_clean is not durable
    assert [lost.task_id for lost in ledger.lost] == ["gone"] * durable
    # A single call may be durable, too.
    journal.notes[3]["durable"] = True
    assert only_row(judge(journal.notes, Stored())) == Row(accepted=2, done=1, lost=1)
    del journal.notes[3]["durable"]
    if not durable:
        assert "none lost, 1 gone with a primary before its replicas" in show(ledger)


def test_a_task_from_long_before_a_failover_is_lost(journal: Journal):
    """A task accepted long before a failover counts as lost, as the replicas had it."""
    journal.accept()
    for _ in range(5):
        journal.say("exit", name="worker-1", worker=WORKER, code=1)
    journal.fault("failover", kind="replica promoted")
    journal.mend()

    assert only_row(judge(journal.notes, Stored())) == Row(accepted=1, lost=1)


def test_the_table_shows_what_is_wrong(journal: Journal):
    """The table lists a lost task, and ends with the verdict."""
    journal.accept()
    journal.start(1)

    shown = show(judge(journal.notes, Stored())).splitlines()

    assert any(line.startswith("lost: slow a, no trace") for line in shown)
    assert shown[-1].startswith("NOT CLEAN: 1 accepted, 1 lost")


def test_the_same_seed_plans_the_same_faults():
    """The same seed plans the same faults, so that a failed run can be reproduced."""
    assert list(plan(7, 60)) == list(plan(7, 60))
    assert list(plan(7, 60)) != list(plan(8, 60))
    assert list(plan(7, 30)) == list(plan(7, 60))[: len(list(plan(7, 30)))]


def test_each_database_has_faults_of_its_own():
    """The disk of SQLite is filled and PostgreSQL is killed; MongoDB has faults in each plan."""
    kinds = ({one.kind for one in plan(7, 6000, database=name)} for name in get_args(Database))
    sqlite, postgresql, mongodb = kinds
    assert (sqlite - mongodb, postgresql - mongodb) == ({"disk full"}, {"postgresql killed"})
    assert mongodb == sqlite & postgresql


def test_each_topology_has_faults_of_its_own():
    """Each topology plans faults of the servers that it has."""
    kinds = ({one.kind for one in plan(7, 6000, topology)} for topology in get_args(Topology))
    single, sentinel, cluster = kinds
    own = {"valkey killed", "valkey stopped", "connections cut"}
    assert single - sentinel == single - cluster == own
    assert sentinel - single == {
        *("primary killed", "primary killed with a lag", "primary frozen"),
        *("replica promoted", "failover ordered", "replica killed", "replica frozen"),
    }
    assert cluster - sentinel == {"slot moved", "other primary killed"}
    assert sentinel <= cluster


@pytest.mark.parametrize(("heard", "is_whole"), [
    (["7-0"], True), (["8-0 reset"], True), ([], False), (["6-9 reset"], False),
    (["7-0", "7-0"], False),
])  # fmt: skip
def test_each_event_is_heard_once_or_covered_by_a_reset(
    journal: Journal, heard: list[str], is_whole: bool
):
    """An event that was sent must be heard once, or a reset must follow it."""
    journal.accept()
    journal.run(1, "done")
    journal.say("sent", channel="told", event="7-0")
    for one in heard:
        event, _, kind = one.partition(" ")
        journal.say("heard", channel="told", event=event, kind=kind or "told")

    broken = judge(journal.notes, Stored()).broken

    expected = "heard 2 times" if len(heard) > 1 else "was sent, and not heard"
    assert broken == ([] if is_whole else [broken[0]])
    assert is_whole or expected in broken[0]


def test_an_event_may_be_lost_with_its_primary(journal: Journal):
    """An event that was sent right before a failover may not be heard."""
    journal.accept()
    journal.run(1, "done")
    journal.say("sent", channel="told", event="7-0")
    journal.fault("failover", kind="primary killed")
    journal.mend()
    assert judge(journal.notes, Stored()).is_clean


def group(journal: Journal, name: str, *, pid: int = WORKER) -> None:
    journal.say(
        "start", id=name, kind="waiting", tries=1, pid=pid, run=f"{name}-{pid}-1", group="A"
    )


@pytest.mark.parametrize("effect", ["stop", "freeze"])
def test_unique_tasks_run_one_at_a_time_unless_a_worker_was_lost(journal: Journal, effect: str):
    """Two tasks of a group that run at the same time break a promise, except beside a freeze."""
    group(journal, "a")
    journal.fault(effect, WORKER)
    group(journal, "b", pid=OTHER)
    journal.mend()
    journal.end(1, "done")
    journal.end(1, "done", pid=OTHER, name="b")
    expected = ["A: a and b ran at the same time"] if effect == "stop" else []
    assert judge(journal.notes, Stored()).broken == expected


@pytest.mark.parametrize("strict", [True, False])
def test_a_task_runs_after_those_that_it_follows(journal: Journal, strict: bool):
    """A task that ran before the one that it follows was done breaks a promise if it is strict."""
    journal.accept("b")
    journal.say("accepted", id="a", kind="batch", after=["b"], strict=strict)
    journal.run(1, "raised", name="b")
    journal.run(1, "done")
    expected = ["batch a ran, and b before it was not done"] if strict else []
    assert judge(journal.notes, Stored()).broken == expected


def test_a_task_without_a_result_and_a_key_without_a_task_are_not_clean(journal: Journal):
    """An accepted task without a result, or a key that no task needs, breaks a promise."""
    journal.accept("a")
    journal.run(1, "done")
    stored = Stored(results={"b": "done"}, left_over=frozenset({"lock charge"}))
    ledger = judge(journal.notes, stored)
    assert ledger.broken == ["slow a has no result", "left in Redis: lock charge"]
    assert not ledger.is_clean
