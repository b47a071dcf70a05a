"""Each event of a webhook runs once, though it is delivered often and web processes are killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.deliveries import Outcome, Wanted, deliver
from chaos.journal import JOURNAL


@pytest.mark.process
@pytest.mark.slow
async def test_each_event_is_acted_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sixty events, delivered 300 times by 10 clients, run once each.

    `just deliveries` makes 100,000 deliveries of 20,000 events.
    """
    monkeypatch.setenv(JOURNAL, "")  # restored afterwards
    wanted = Wanted(events=60, deliveries=300, clients=10, seed=1)

    outcome = await deliver(wanted, tmp_path)

    print(outcome.text)
    assert outcome.restarts.total() > 0
    assert (outcome.deliveries, outcome.runs, outcome.wrong) == (300, 60, {})
    assert os.environ[JOURNAL] == str(tmp_path / "journal.jsonl")


def test_an_event_that_ran_twice_is_named():
    """The report has the number of deliveries, times and restarts, and names an event run twice."""
    outcome = Outcome(deliveries=3, milliseconds=[1.0, 2.0, 9.0], runs=2, wrong={"evt-7": 2})
    outcome.restarts["killed"] += 1
    assert "3 deliveries" in outcome.text
    assert "p50 2 ms, p95 9 ms" in outcome.text
    assert "web processes killed 1" in outcome.text
    assert "NOT ONCE: {'evt-7': 2}" in outcome.text
