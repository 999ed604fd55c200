"""A step whose references cannot be filled in ends its saga, and stops nobody else's."""

import json

import pytest

from app.commands.view import view
from app.edges import commands
from tests.sagas.lab import Lab
from tests.sagas.test_runs import CHAIN, plan, step
from tests.support.calls import ADA


@pytest.mark.guarantee("saga:templates")
@pytest.mark.parametrize("text", ["{{ steps.a.result." + "9" * 5000 + " }}", "MANY"])
async def test_a_reference_that_cannot_be_filled_in_ends_its_saga_and_no_other(
    lab: Lab, text: str
) -> None:
    text = "{{ steps.a.result }}" * 5000 if text == "MANY" else text
    odd = await lab.run(plan(step("a"), step("b", "a", args={"text": text})))
    other = await lab.run(CHAIN)
    await lab.do(odd, "a", result=["x" * 1000])
    await lab.do(odd, "undo a")
    state, _ = await lab.saga(odd)
    assert state == "compensated"
    said = json.dumps(view(await commands.find(lab.broker, ADA, odd)), default=str)
    assert len(said) < 10_000
    await lab.do(other, "a")
    assert set(await lab.waiting(other)) == {"b"}
