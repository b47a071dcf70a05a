"""Nonsense in requests and in Redis comes to nothing; `just fuzz` goes on for half an hour."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from chaos.fuzz import Found, Wanted, fuzz
from chaos.nonsense import request


@pytest.mark.process
@pytest.mark.slow
async def test_a_round_of_nonsense_comes_to_nothing(tmp_path: Path):
    """Three hundred requests and forty spoilt keys, and then a task is run for somebody honest."""
    found = await fuzz(Wanted(seconds=1, seed=1), tmp_path)

    print(found.text)
    assert found.faults == {}
    assert found.honest
    assert found.statuses.total() >= 300
    assert found.spoilt.total() >= 40


def test_the_same_seed_draws_the_same_requests():
    """So that a fault can be looked for again."""
    first, second = ([request(Random(7), 80, "c", ["x"]) for _ in range(9)] for _ in range(2))
    assert first == second


def test_a_fault_is_kept_once_a_kind():
    """Numbers and names in it count for nothing."""
    found = Found()
    found.fault("500 to b'GET /task/12'", "first")
    found.fault("500 to b'GET /task/13'", "second")
    assert list(found.faults.values()) == ["first"]
    assert "1 faults" in found.text
