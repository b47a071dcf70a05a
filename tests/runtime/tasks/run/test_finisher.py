"""Batches of ends, which are divided if the server refuses one."""

from __future__ import annotations

import pytest

from vibetuner.tasks.attempt import Attempt
from vibetuner.tasks.run.finisher import Batch, _split, fresh_ms


@pytest.mark.parametrize(
    ("idle", "fresh"), [(100, 90), (999, 899), (1000, 900), (1001, 900), (60_000, 900)]
)
def test_a_claim_is_sure_for_less_than_the_shortest_timeout(idle: int, fresh: int):
    """The time is nine tenths of the idle timeout, and at most 0.9 seconds."""
    assert fresh_ms(idle) == fresh


def test_a_batch_is_divided_into_its_ends():
    """Each part has the values of its own attempt."""
    one, two = Attempt("a", "normal", "1-0"), Attempt("b", "normal", "2-0")
    batch = Batch(["a1", "a2", "a3", "b1"], [3, 1], [one, two])

    assert [(part.values, part.sizes, part.attempts) for part in _split(batch)] == [
        (["a1", "a2", "a3"], [3], [one]),
        (["b1"], [1], [two]),
    ]
