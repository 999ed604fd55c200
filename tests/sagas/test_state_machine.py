"""The saga's state machine by itself: its tables, its diagrams, and that no state is a trap."""

import pytest

from app import assets
from app.sagas.state import (
    FINAL,
    STEP_TRANSITIONS,
    TRANSITIONS,
    WAITING,
    Event,
    State,
    StepEvent,
    StepState,
    diagram,
)

DOC = assets.root() / "docs" / "SAGAS.md"


@pytest.mark.guarantee("saga:diagram")
def test_the_diagrams_in_the_docs_are_those_of_the_tables() -> None:
    assert diagram() in DOC.read_text()


def test_every_state_but_the_final_ones_leads_to_an_end() -> None:
    reached = set(FINAL)
    while True:
        more = {source for (source, _), to in TRANSITIONS.items() if to in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)
    assert not {source for source, _ in TRANSITIONS} & FINAL
    assert {source for source, event in TRANSITIONS if event is Event.RESUME} == WAITING


def test_every_event_and_every_state_is_in_use() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {event for _, event in STEP_TRANSITIONS} == set(StepEvent)
    assert {*STEP_TRANSITIONS.values(), StepState.PENDING} == set(StepState)
