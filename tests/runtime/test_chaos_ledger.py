"""The ledger of the chaos run, on journals made by hand: each judgement has a sentence."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from chaos.faults import Topology, plan
from chaos.ledger import Ledger, Letter, Row, Stored, judge
from chaos.table import show

WORKER, OTHER = 100, 200


class Journal:
    """A run written down by hand; ``at`` moves on by a second a line."""

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
    """The journal has it; no store is asked."""
    journal.accept()
    journal.run(1, "done")

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, done=1)
    assert ledger.is_clean


def test_a_task_with_a_dead_letter_is_dead(journal: Journal):
    """And the causes are counted."""
    journal.accept()
    journal.run(1, "raised")

    ledger = judge(journal.notes, Stored(letters={"a": letter("exception")}))

    assert only_row(ledger) == Row(accepted=1, dead=1)
    assert ledger.causes == {"exception": 1}
    assert ledger.is_clean


@pytest.mark.parametrize("stored", [Stored(), Stored(results={"a": "aborted"})])
def test_a_task_that_was_aborted_is_aborted(journal: Journal, stored: Stored):
    """By the answer to the one who asked, or by what is stored."""
    journal.accept()
    journal.start(1)
    journal.say("abort", id="a", answer="error" if stored.results else "yes")
    journal.end(1, "cancelled")

    assert only_row(judge(journal.notes, stored)) == Row(accepted=1, aborted=1)


def test_a_task_without_an_end_is_lost(journal: Journal):
    """It is listed with the last that was heard of it, and the run is not clean."""
    journal.accept()
    journal.start(1)

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, lost=1)
    assert [(lost.task_id, lost.stored) for lost in ledger.lost] == [("a", "no trace")]
    assert [line["what"] for line in ledger.lost[0].lines] == ["accepted", "start"]
    assert not ledger.is_clean


def test_a_failure_without_a_dead_letter_is_lost_too(journal: Journal):
    """It has ended in silence."""
    journal.accept()
    journal.run(1, "raised")

    ledger = judge(journal.notes, Stored(results={"a": "failed"}))

    assert ledger.total.lost == 1
    assert ledger.lost[0].stored == "result: failed, no dead letter"


def test_a_task_that_still_waits_is_not_lost_and_not_clean(journal: Journal):
    """The queue did not come to rest."""
    journal.accept()

    ledger = judge(journal.notes, Stored(queued=frozenset({"a"})))

    assert only_row(ledger) == Row(accepted=1, queued=1)
    assert not ledger.is_clean


def test_an_enqueue_that_raised_promised_nothing(journal: Journal):
    """Such tasks are counted apart, and can't be lost."""
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
    """Nobody enqueued it; it has a row of its own and can be lost like any other."""
    journal.start(1, kind="ticking")

    ledger = judge(journal.notes, Stored())

    assert ledger.rows == {"ticking (cron)": Row(accepted=1, lost=1)}


def test_a_task_that_completed_more_than_once_is_counted_and_no_fault(journal: Journal):
    """A worker that was taken for lost has finished after all."""
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
    """It counts as done, and among the tasks with two ends."""
    journal.accept()
    journal.run(1, "done")

    ledger = judge(journal.notes, Stored(letters={"a": letter("crashed", tries=0)}))

    assert only_row(ledger).done == 1
    assert ledger.two_ends == ["a"]


def test_a_try_is_burnt_when_a_planned_stop_alone_explains_it(journal: Journal):
    """The number rose, and nothing but the stop came between the two runs."""
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
    """The next run has the same number."""
    journal.accept()
    journal.start(1)
    journal.fault("stop", WORKER)
    journal.end(1, "cancelled")
    journal.mend()
    journal.run(1, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).is_clean


@pytest.mark.parametrize("outcome", ["raised", "timeout"])
def test_a_failed_try_counts_also_when_its_worker_is_stopped(journal: Journal, outcome: str):
    """The task's own failure explains the rise."""
    journal.accept()
    journal.start(1)
    journal.fault("stop", WORKER)
    journal.end(1, outcome)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).is_clean


@pytest.mark.parametrize("effect", ["kill", "freeze", "outage"])
def test_a_lost_worker_explains_a_try(journal: Journal, effect: str):
    """Killed, frozen, or cut off from Redis."""
    journal.accept()
    journal.start(1)
    journal.fault(effect, WORKER)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    ledger = judge(journal.notes, Stored())

    assert ledger.total.burnt == ledger.total.unexplained == 0


def test_a_neighbour_that_kills_the_worker_explains_a_try(journal: Journal):
    """A poison pill takes all tasks of its process with it."""
    journal.accept()
    journal.start(1)
    journal.say("suicide", pid=WORKER)
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).total.unexplained == 0


def test_the_loss_of_another_worker_explains_nothing(journal: Journal):
    """It was over when the task was requeued."""
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
    """A worker can be killed between taking a task up and running it."""
    journal.accept()
    journal.fault("kill", WORKER)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).is_clean


def test_a_stop_between_two_runs_must_not_take_a_try_either(journal: Journal):
    """The first run has number 2, and all that happened was a stop."""
    journal.accept()
    journal.fault("stop", WORKER)
    journal.mend()
    journal.run(2, "done", pid=OTHER)

    assert judge(journal.notes, Stored()).total.burnt == 1


def test_a_rise_for_no_reason_seen_is_counted_apart(journal: Journal):
    """A busy machine may make a worker look lost; no stop did that."""
    journal.accept()
    journal.start(1)
    journal.run(2, "done", pid=OTHER)
    journal.end(1, "done")

    ledger = judge(journal.notes, Stored())

    assert only_row(ledger) == Row(accepted=1, done=1, twice=1, unexplained=1)
    assert ledger.is_clean


def test_a_task_that_is_buried_because_of_a_stop_has_burnt_a_try(journal: Journal):
    """There is no next run to show it; the dead letter does."""
    journal.accept()
    journal.start(1)
    journal.fault("stop", WORKER)
    journal.end(1, "cancelled")
    journal.mend()

    ledger = judge(journal.notes, Stored(letters={"a": letter("crashed", tries=1)}))

    assert only_row(ledger) == Row(accepted=1, dead=1, burnt=1)


@pytest.mark.parametrize("cause", [None, "", "bad luck"])
def test_a_dead_letter_must_name_a_cause_that_is_one(journal: Journal, cause: str | None):
    """Others are counted by the task's id."""
    journal.accept()

    ledger = judge(journal.notes, Stored(letters={"a": letter(cause)}))

    assert ledger.without_cause == ["a"]


def test_recovery_is_the_time_from_a_faults_end_to_the_next_completed_task(journal: Journal):
    """Per kind of fault, and over all of them."""
    journal.accept()  # at 0
    journal.fault("outage", kind="valkey killed")  # at 1
    journal.mend()  # at 2
    journal.run(1, "raised")  # ends at 4
    journal.run(2, "done")  # ends at 6

    recovery = judge(journal.notes, Stored()).recovery

    assert recovery["valkey killed"].longest == 4
    assert recovery["any"].median == 4


def test_a_process_that_ended_unasked_is_named(journal: Journal):
    """With its exit code; its tasks were lost for a reason."""
    journal.accept()
    journal.start(1)
    journal.say("exit", name="worker-1", worker=WORKER, code=1)
    journal.run(2, "done", pid=OTHER)

    ledger = judge(journal.notes, Stored())

    assert ledger.exits == {"worker-1 with code 1": 1}
    assert ledger.total.unexplained == 0


def test_a_task_of_a_transaction_that_was_rolled_back_must_not_run(journal: Journal):
    """It is not counted; if it runs, a promise is broken."""
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
    """However often it was accepted; also where an enqueue raised and was yet heard."""
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
    """Unless it was enqueued durably, as the task."""
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
    """Its worker was lost, or Redis, before the end was recorded."""
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
    """It would prove nothing."""
    assert not judge([], Stored()).is_clean


@pytest.mark.parametrize("durable", [False, True])
def test_what_a_lost_primary_took_along_is_counted(journal: Journal, durable: bool):
    """A task that was accepted right before a failover; a durable one is lost without excuse."""
    journal.accept("early")
    journal.run(1, "done", name="early")
    journal.accept("gone")
    journal.fault("failover", kind="primary killed")
    journal.mend()

    ledger = judge(journal.notes, Stored(), durable=durable)

    assert only_row(ledger) == Row(accepted=2, done=1, lost=durable, gap=not durable)
    assert ledger.is_clean is not durable
    assert [lost.task_id for lost in ledger.lost] == ["gone"] * durable
    if not durable:
        assert "none lost, 1 gone with a primary before its replicas" in show(ledger)


def test_a_task_of_another_time_is_lost_at_a_failover_too(journal: Journal):
    """Its replicas have had it for long."""
    journal.accept()
    for _ in range(5):
        journal.say("exit", name="worker-1", worker=WORKER, code=1)
    journal.fault("failover", kind="replica promoted")
    journal.mend()

    assert only_row(judge(journal.notes, Stored())) == Row(accepted=1, lost=1)


def test_the_table_says_what_is_wrong(journal: Journal):
    """The lost task with its lines, and the verdict last."""
    journal.accept()
    journal.start(1)

    shown = show(judge(journal.notes, Stored())).splitlines()

    assert any(line.startswith("lost: slow a, no trace") for line in shown)
    assert shown[-1].startswith("NOT CLEAN: 1 accepted, 1 lost")


def test_the_same_seed_plans_the_same_faults():
    """So that a run that went wrong can be had again."""
    assert list(plan(7, 60)) == list(plan(7, 60))
    assert list(plan(7, 60)) != list(plan(8, 60))
    assert list(plan(7, 30)) == list(plan(7, 60))[: len(list(plan(7, 30)))]


def test_each_topology_has_faults_of_its_own():
    """Its servers are those that there are."""
    kinds = ({one.kind for one in plan(7, 6000, topology)} for topology in get_args(Topology))
    single, sentinel, cluster = kinds
    assert single - sentinel == single - cluster == {"valkey killed", "valkey stopped"}
    assert sentinel - single == {
        *("primary killed", "primary killed with a lag", "primary frozen"),
        *("replica promoted", "failover ordered", "replica killed", "replica frozen"),
    }
    assert cluster - sentinel == {"slot moved", "other primary killed"}
    assert sentinel <= cluster
