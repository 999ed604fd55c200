"""A saga's calls go to the executor of their tool, that of an undo whose tool has gone, too."""

from pathlib import Path
from typing import Any

import pytest

from tests.sagas.lab import Lab
from tests.sagas.test_runs import FAILED, plan, step
from tests.support.offers import offer, put

TOPICS = """
    SELECT o.topic
      FROM outbox o
      JOIN commands c ON c.id = o.command_id
     WHERE c.saga_id = $1 AND c.saga_role = $2 AND o.kind = 'command'
"""


@pytest.mark.guarantee("dispatch:executor")
@pytest.mark.parametrize("retired", [False, True])
async def test_an_undo_goes_to_its_tools_executor_also_out_of_service(
    lab: Lab, home: Path, *, retired: bool
) -> None:
    await put(lab.dsns, home, offer(), broker=lab.broker)
    undo: dict[str, Any] = {"tool": "kind_echo", "args": {"text": "undo"}}
    saga_id = await lab.run(plan(step("a", compensate=undo), step("b", "a")))
    await lab.do(saga_id, "a")
    [own] = await lab.owner.fetch(TOPICS, saga_id, "step")
    assert own["topic"] == "mcp.commands", "the step's own tool is EDA's"
    if retired:
        await lab.owner.execute("UPDATE tools SET retired_at = now() WHERE tool = 'kind'")
        lab.conductor._tools.forget()  # pyright: ignore[reportPrivateUsage] no other replica is told
    await lab.do(saga_id, "b", **FAILED)
    [row] = await lab.owner.fetch(TOPICS, saga_id, "undo")
    assert row["topic"] == "mcp.commands.worker"
