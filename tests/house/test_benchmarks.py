"""How figures are taken and judged, and the model of intake."""

import pytest

from benchmarks.measure import at_least, at_most, in_turns, percentile
from benchmarks.simulate import Costs, predicted


def test_a_ratio_of_medians_is_held_against_its_goal() -> None:
    values = {"name": "x", "unit": "s", "subject": [1, 9, 4], "baseline": [2, 1, 2], "against": "y"}
    assert at_most(2, **values).met
    assert not at_most(1.9, **values).met
    assert at_least(2, **values).met
    assert not at_least(2.1, **values).met
    assert at_least(2, **values).extremes == (0.5, 9)


def test_a_percentile_is_the_nearest_rank() -> None:
    assert [percentile([3, 1, 2, 4], share) for share in (0.25, 0.5, 0.51, 0.99)] == [1, 2, 3, 4]


async def test_turns_alternate_so_that_drift_meets_both() -> None:
    seen: list[str] = []

    async def turn(name: str) -> float:
        seen.append(name)
        return float(len(seen))

    found = await in_turns(2, a=lambda: turn("a"), b=lambda: turn("b"))
    assert seen == ["a", "b", "b", "a"]
    assert found == {"a": [1, 4], "b": [2, 3]}


def test_the_model_of_intake_tells_what_can_be_told_by_hand() -> None:
    costs = Costs(python_s=0.0005, python_batch_s=0.0005, batch_s=0.002, row_s=0.001, sync_s=0.004)
    # One caller waits for each step in turn.
    assert predicted(costs, callers=1, processors=2) == pytest.approx(1 / 0.008, rel=0.01)
    # Many callers fill the one thread, and a second replica on processors of its own doubles it.
    cheap = Costs(python_s=0.001, python_batch_s=0, batch_s=0, row_s=0.0001, sync_s=0)
    one = predicted(cheap, callers=64, processors=8)
    assert one == pytest.approx(1000, rel=0.05)
    two = predicted(cheap, callers=128, processors=8, replicas=2)
    assert two == pytest.approx(2 * one, rel=0.05)
