"""How many examples are drawn: all of them in `make test`, a part in `make test-fast`."""

import os
from typing import Final

from hypothesis import HealthCheck, settings

USUAL: Final = 100
"""Hypothesis's own number, of a test that says none."""
FAST: Final = 20
"""Of the profile `fast`, which tests/conftest.py registers."""


def examples(whole: int) -> int:
    """As large a part of so many as the profile of this run has of the usual number."""
    return max(1, whole * settings().max_examples // USUAL)


def bounds_of_model(*, steps: int, derandomize: bool) -> settings:
    """How far a state machine is walked: the same walks in each run, unless a seed is given."""
    return settings(
        max_examples=int(os.environ.get("MCP_BROKER_MODEL_EXAMPLES", "25")),
        stateful_step_count=steps,
        deadline=None,
        derandomize=derandomize,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
