"""Figures: what is measured beside its baseline, alternately, and how the two compare.

A single time says much of the machine and little of the code, so each figure is a ratio of
medians: subject and baseline take turns, and every turn's value is kept.
"""

import math
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

Turn = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured of a subject and its baseline, and the goal for their ratio."""

    name: str
    unit: str
    subject: Sequence[float]
    baseline: Sequence[float]
    against: str
    goal: str = ""
    met: bool | None = None
    note: str = ""
    ratio: float = field(init=False)

    def __post_init__(self) -> None:
        base = statistics.median(self.baseline) if self.baseline else math.nan
        object.__setattr__(self, "ratio", over(statistics.median(self.subject), base))

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the greatest ratio of one turn's pair."""
        pairs = [over(s, b) for s, b in zip(self.subject, self.baseline, strict=False)]
        return (min(pairs), max(pairs)) if pairs else (math.nan, math.nan)


def over(subject: float, baseline: float) -> float:
    """Their ratio; without bound beside a baseline that got nothing done."""
    return subject / baseline if baseline else math.inf


def at_least(goal: float, **values: Any) -> Figure:
    """A figure whose ratio should not be below the goal."""
    met = Figure(**values).ratio >= goal
    return Figure(**values, goal=f"≥ {goal:g}", met=met)


def at_most(goal: float, **values: Any) -> Figure:
    """A figure whose ratio should not be above the goal."""
    met = Figure(**values).ratio <= goal
    return Figure(**values, goal=f"≤ {goal:g}", met=met)


async def in_turns(repeats: int, **turns: Turn) -> dict[str, list[float]]:
    """Every turn `repeats` times, alternately; the order is reversed each round."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for n in range(repeats):
        order = list(turns.items())
        for name, turn in order if n % 2 == 0 else reversed(order):
            found[name].append(await turn())
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies (nearest rank)."""
    assert values
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    @property
    def s(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._at


def show(figures: Sequence[Figure], console: Console) -> None:
    """The table for people."""
    table = Table("figure", "median", "baseline", "ratio", "min-max", "goal", "n", "against")
    for one in figures:
        low, high = one.extremes
        goal = one.goal if one.met is None else f"{one.goal} {'met' if one.met else 'MISSED'}"
        base = shown(statistics.median(one.baseline)) if one.baseline else "-"
        table.add_row(
            one.name,
            f"{shown(statistics.median(one.subject))} {one.unit}",
            base,
            shown(one.ratio),
            f"{shown(low)}-{shown(high)}",
            goal,
            str(len(one.subject)),
            one.against,
        )
    console.print(table)


def shown(value: float) -> str:
    """Three digits, or whole numbers."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def as_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures with every turn's value."""
    made: list[dict[str, Any]] = []
    for one in figures:
        low, high = one.extremes
        values = asdict(one) | {"ratio_min": low, "ratio_max": high}
        made.append({k: None if v != v else v for k, v in values.items()})  # noqa: PLR0124 NaN
    return made
