"""Times of two networks beside each other: in turns, with an interval that says how much rounds differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subspect.giving import timing
from subspect.giving.timing import ratios


class Clock:
    """Time that passes only while a network runs."""

    def __init__(self) -> None:
        self.now, self.ran = 0.0, list[str]()

    def perf_counter(self) -> float:
        return self.now

    def taking(self, name: str, *seconds: float) -> object:
        def run(x: Tensor) -> None:
            self.ran.append(f"{name}{len(x)}")
            self.now += seconds[len(self.ran) % len(seconds)]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    monkeypatch.setattr(timing, "_TURN", 0.02)
    return made


def test_networks_take_turns_and_the_share_is_that_of_a_round(clock: Clock) -> None:
    found = ratios(clock.taking("dense", 2.0), clock.taking("small", 0.5), torch.zeros(7, 2), 3)  # type: ignore[arg-type]
    assert clock.ran == [*["dense1"] * 2, *["small1"] * 2] * 3 + [*["dense7"] * 2, *["small7"] * 2] * 3
    for batch in (1, 7):
        one = found[batch]
        assert (one.dense, one.small, one.value, one.low, one.high) == (2.0, 0.5, 0.25, 0.25, 0.25)
    assert str(found[1]) == "0.250 (0.250–0.250)"


def test_short_runs_are_repeated_and_each_round_counts_once(clock: Clock) -> None:
    ratios(clock.taking("dense", 0.004), clock.taking("small", 0.03), torch.zeros(1, 2), 1, [1])  # type: ignore[arg-type]
    assert clock.ran.count("dense1") == 1 + 5 and clock.ran.count("small1") == 1 + 1


def test_the_interval_widens_where_rounds_differ(clock: Clock) -> None:
    slow = iter([1.0, 1.0, 2.0, 4.0, 8.0] * 100)

    def small(x: Tensor) -> None:
        clock.now += next(slow)

    one = ratios(clock.taking("dense", 1.0), small, torch.zeros(1, 2), 20, [1])[1]  # type: ignore[arg-type]
    assert one.low < one.value < one.high
