"""Values as Hypothesis draws them: the same ones each time, more where a variable asks for it."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final
from zlib import crc32

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.edges.hostile.values import KINDS, Value

ROUNDS: Final = int(os.environ.get("MCP_BROKER_HOSTILE_ROUNDS", "1"))
"""Of each place; `make test` has this many, a search for faults as many as one has time for."""
KINDS_A_ROUND: Final = int(os.environ.get("MCP_BROKER_HOSTILE_KINDS", "4"))
"""Of all kinds; the next place has the next ones. `make hostile` has all of them everywhere."""
DRAWS: Final = 40
"""Of each kind and round, for all places: drawing costs as much as what is drawn for."""


@cache
def draws(kind: str, count: int = DRAWS * ROUNDS) -> Sequence[Value]:
    """So many values of a kind, or all that it has."""
    found: list[Value] = []

    @seed(crc32(kind.encode()))
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    @given(KINDS[kind])
    def draw(drawn: Value) -> None:
        found.append(drawn)

    draw()
    return found


def turns(label: str) -> Iterator[tuple[int, Sequence[Mapping[str, Value]]]]:
    """What each place after another has, by round; other labels begin elsewhere.

    Places that follow one another go through all kinds.
    """
    names = [*KINDS]
    size = min(KINDS_A_ROUND, len(names))
    for turn in itertools.count(crc32(label.encode()) % 1000):
        some = [names[(turn * size + step) % len(names)] for step in range(size)]
        yield turn, [{name: pick(name, turn * ROUNDS + n) for name in some} for n in range(ROUNDS)]


def pick(kind: str, number: int) -> Value:
    """One of a kind's; numbers that follow one another have different ones."""
    found = draws(kind)
    return found[number % len(found)]
