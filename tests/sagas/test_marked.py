"""A step's ordering key is shown: no secret is in one, and a person's data as a hash only."""

import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import uuid_utils.compat as uuid_utils

from app.commands.envelope import envelope
from app.commands.store.dispatch_claim import lease_commands
from app.edges.parts import Parts
from app.errors import InvalidDefinitionError
from app.intake.prepare import CallRequest
from app.sagas.check import Tools, problems
from app.sagas.parse import parse
from devstack.stack import Dsns
from tests.catalog.test_keys import MAIL, MARKED, TOOLS, WHEREVER
from tests.edges.mcp.conftest import offer
from tests.sagas.lab import Lab
from tests.support.calls import accept, fetch


@pytest.fixture
async def tools(database: Dsns, tmp_path: Path) -> None:
    (tmp_path / "tools.yml").write_text(TOOLS)
    await offer(database.owner, tmp_path / "tools.yml")


def saga(key: str, args: dict[str, Any], tool: str = "vault_put", **more: Any) -> dict[str, Any]:
    step: dict[str, Any] = {"id": "a", "tool": tool, "args": args, "kind": "pivot"}
    return {"steps": [step | {"ordering_key": key}], **more}


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    "plan",
    [
        saga("pin {{ input.pin }}", {"pin": "{{ input.pin }}"}),
        saga("{{ input.all.pin }}", {"pin": "a {{ input.all }}"}),
        saga(
            "{{ input.pin }}",
            {"name": "n"},
            input={"type": "object", "properties": {"pin": MARKED}, "required": ["pin"]},
        ),
    ],
)
async def test_a_saga_whose_order_would_show_a_secret_is_refused(
    broker: Parts, plan: dict[str, Any]
) -> None:
    tools = Tools.of(one.tool for one in (await broker.catalog.tools()).values())
    told = dict(problems(parse(plan), tools))
    assert "x-sensitive" in told["steps[0].ordering_key"]
    fine = saga("{{ saga.id }} {{ input.name }}", {"name": "{{ input.name }}"})
    assert problems(parse(fine), tools) == []


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.usefixtures("tools")
async def test_a_sagas_key_of_a_persons_data_is_a_hash(lab: Lab, database: Dsns) -> None:
    plan = saga("to {{ input.mail }}", {"to": "{{ input.mail }}"}, tool="mail_send")
    saga_id = await lab.run(plan, {"mail": MAIL})
    waiting = await lab.waiting(saga_id)
    assert waiting["a"]["ordering_key"].startswith("#")
    assert await fetch(database.owner, WHEREVER, MAIL) == [(0,)]
    with pytest.raises(InvalidDefinitionError, match="x-sensitive"):
        await lab.run(saga("{{ input.pin }}", {"pin": "{{ input.pin }}"}), {"pin": "1234"})


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(("undo", "kept"), [("hide", False), ("put", True)])
async def test_what_would_undo_a_step_is_in_kafka_only_if_its_own_call_would_be(
    lab: Lab, undo: str, kept: bool
) -> None:
    args = {"what": "not-for-kafka"} if undo == "hide" else {"name": "n"}
    call = CallRequest(
        tool="vault",
        method="put",
        args={"name": "n"},
        saga_id=uuid_utils.uuid7(),
        saga_step="a",
        compensation={"tool": "vault", "method": undo, "args": args},
    )
    accepted = await accept(lab.broker, call)
    [row] = await lease_commands(
        lab.relay.pool, window=9, aging_s=60, batch_max=9, relay="r", lease_s=9
    )
    assert row.command is not None
    told = orjson.dumps(envelope(row.command, by_reference=row.by_reference))
    assert str(accepted.written.id).encode() in told
    assert (orjson.loads(told)["compensation"] is not None) == kept
    assert b"not-for-kafka" not in told


@pytest.mark.guarantee("saga:templates")
async def test_a_definition_of_very_many_references_is_checked_at_once(broker: Parts) -> None:
    key = "".join(f"{{{{input.{name}}}}}" for name in "abcdefghijklmnopqrs")
    steps = [
        {"id": f"s{n}", "tool": "probe_echo", "kind": "retriable", "ordering_key": key}
        | {"needs": ["p"], "args": {"text": "x"}}
        for n in range(20)
    ]
    pivot = {"id": "p", "tool": "probe_echo", "kind": "pivot", "needs": []}
    plan = {"steps": [pivot | {"args": {"text": "{{input.x}}" * 6000}}, *steps]}
    tools = Tools.of(one.tool for one in (await broker.catalog.tools()).values())
    began_s = time.process_time()
    assert problems(parse(plan), tools) == []
    assert time.process_time() - began_s < 2
