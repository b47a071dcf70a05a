"""Malformed requests and spoilt keys do no harm; `just fuzz` runs for longer."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from chaos.fuzz import Found, Wanted, fuzz
from chaos.nonsense import request


@pytest.mark.process
@pytest.mark.slow
async def test_a_round_of_the_fuzz_finds_no_fault(tmp_path: Path):
    """After three hundred requests and forty spoilt keys, an ordinary task still runs."""
    found = await fuzz(Wanted(seconds=1, seed=1), tmp_path)

    print(found.text)
    assert found.faults == {}
    assert found.honest
    assert found.statuses.total() >= 300
    assert found.spoilt.total() >= 40


def test_the_same_seed_draws_the_same_requests():
    """The same seed makes the same requests, so that a fault can be reproduced."""
    first, second = ([request(Random(7), 80, "c", ["x"]) for _ in range(9)] for _ in range(2))
    assert first == second


def test_a_fault_of_each_kind_is_recorded_once():
    """Faults that differ only in their numbers are recorded once."""
    found = Found()
    found.fault("500 to b'GET /task/12'", "first")
    found.fault("500 to b'GET /task/13'", "second")
    assert list(found.faults.values()) == ["first"]
    assert "1 faults" in found.text
