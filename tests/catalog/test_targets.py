"""Tools name their adapter and its target; who may see which, and what the catalog refuses."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from app.catalog import file as catalog_file
from app.commands.report import Kind, Report
from app.edges.parts import Parts
from app.errors import BadRequestError
from devstack.stack import Dsns
from tests.support.calls import ADA, ADAPTER, EVE, accept, claim, delete, fetch, finish
from tests.support.offers import MIRROR, call, offer, put

TOPICS = "SELECT topic, attempt FROM outbox WHERE kind = 'command' ORDER BY id"

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a kind that there is not": (
        offer(adapter={"kind": "smoke", "target": "mirror"}, targets=[MIRROR | {"kind": "smoke"}]),
        "there is no kind 'smoke'",
    ),
    "no such target": (offer(targets=[]), "there is no target 'mirror'"),
    "a target of another kind": (offer(targets=[MIRROR | {"kind": "noop"}]), "is of kind noop"),
    "a mapping of another kind": (
        offer(adapter={"kind": "echo", "target": "mirror", "path": "/x"}),
        "adapter has no path",
    ),
    "no target at all": (offer(adapter={"kind": "echo"}), "an adapter has a target"),
    "a playbook elsewhere": (
        offer(adapter={"kind": "playbook", "playbook": "x", "runs_on": "worker"}),
        "a playbook runs on eda",
    ),
    "a playbook of a path": (
        offer(adapter={"kind": "playbook", "playbook": "../x"}),
        "letters, digits and _ only",
    ),
    "a secret in an address": (
        offer(targets=[MIRROR | {"address": "https://me:pass@api.example/"}]),
        "name a credential",
    ),
    "a limit that is none": (offer(targets=[MIRROR | {"limits": {"calls_max": 0}}]), "calls_max"),
    "a target twice": (offer(targets=[MIRROR, MIRROR]), "targets with the same name: mirror"),
}


@pytest.mark.guarantee("catalog:adapters-checked")
@pytest.mark.parametrize("wrong", WRONG)
async def test_an_adapter_that_could_not_work_is_not_put_in_force(
    database: Dsns, home: Path, wrong: str
) -> None:
    catalog, reason = WRONG[wrong]
    with pytest.raises(BadRequestError, match=reason):
        await put(database, home, catalog)
    assert await fetch(database.owner, "SELECT FROM targets") == []
    assert await fetch(database.owner, "SELECT FROM tools WHERE tool = 'kind'") == []


async def test_a_target_that_is_as_it_was_is_nothing_new_and_one_that_is_gone_is_pruned(
    database: Dsns, home: Path
) -> None:
    assert (await put(database, home, offer()))["targets"] == ["mirror"]
    assert (await put(database, home, offer()))["targets"] == []
    changed = offer(targets=[MIRROR | {"limits": {"calls_max": 3}}])
    assert (await put(database, home, changed))["targets"] == ["mirror"]
    [row] = await fetch(
        database.owner,
        "SELECT type, tenant_id, body ->> 'after' AS after FROM audit.events"
        " WHERE type = 'target.changed' AND body ->> 'change' = 'update'",
    )
    assert row["tenant_id"] == "_broker"
    assert orjson.loads(row["after"])["limits"]["calls_max"] == 3


@pytest.mark.guarantee("dispatch:executor")
async def test_a_call_goes_to_the_executor_of_its_tool_and_a_retry_to_who_has_it_then(
    broker: Parts, database: Dsns, home: Path
) -> None:
    twice: dict[str, Any] = {"retry": {"attempts_max": 3, "backoff_s": 0.001}}
    await put(database, home, offer(twice), broker=broker)
    made = (await accept(broker, call())).written.id
    assert [tuple(row) for row in await fetch(database.owner, TOPICS)] == [
        ("mcp.commands.worker", 1)
    ]
    await claim(broker, made)
    await finish(broker, made, attempt=1, error={"code": "busy", "message": "later"})
    assert ("mcp.commands.worker", 2) in [tuple(row) for row in await fetch(database.owner, TOPICS)]
    eda = {"kind": "echo", "target": "mirror", "runs_on": "eda"}
    await put(database, home, offer(twice, adapter=eda), broker=broker)
    await claim(broker, made, attempt=2)
    await finish(broker, made, attempt=2, error={"code": "busy", "message": "later"})
    assert ("mcp.commands", 3) in [tuple(row) for row in await fetch(database.owner, TOPICS)]
    await accept(broker, call("new"))
    assert [row["topic"] for row in await fetch(database.owner, TOPICS)][-1] == "mcp.commands"


OWN = MIRROR | {
    "tenant": "other",
    "address": "https://mirror.other.example",
    "credential": {"type": "bearer", "token": "file:/run/secrets/{tenant}"},
}


@pytest.mark.guarantee("catalog:targets-by-tenant")
@pytest.mark.parametrize("single", [False, True], ids=["batch", "single"])
async def test_a_claim_is_told_the_adapter_and_its_tenants_own_target_before_the_shared_one(
    broker: Parts, database: Dsns, home: Path, *, single: bool
) -> None:
    await put(database, home, offer({"idempotent": True}, targets=[MIRROR, OWN]), broker=broker)
    told: dict[str, Any] = {}
    for who in (ADA, EVE):
        made = (await accept(broker, call(), who)).written.id
        named = None if single else (who.tenant_id, "kind", "echo")
        said = Report(
            kind=Kind.CLAIM, adapter=ADAPTER, command_id=made, attempt=1, run="r", named=named
        )
        answer = await broker.reports.report(said)
        assert answer.status == 200
        told[who.tenant_id] = orjson.loads(orjson.dumps(answer.body))
        again = await broker.reports.report(said)
        repeated = orjson.loads(orjson.dumps(again.body))
        assert repeated | {"left_s": 0} == told[who.tenant_id] | {"left_s": 0}
    for answer in told.values():
        assert answer["adapter"] == {"kind": "echo", "target": "mirror", "runs_on": "worker"}
        assert answer["idempotent"] is True
        assert 3590 < answer["left_s"] <= 3600
    assert told["demo"]["target"]["tenant"] is None
    assert told["demo"]["target"]["address"] == ""
    assert told["other"]["target"]["tenant"] == "other"
    assert told["other"]["target"]["credential"] == OWN["credential"], "the reference, no secret"


async def test_a_claim_of_a_tool_without_an_adapter_is_told_of_none(broker: Parts) -> None:
    made = (await accept(broker, delete())).written.id
    said = Report(kind=Kind.CLAIM, adapter=ADAPTER, command_id=made, attempt=1, run="r")
    assert "adapter" not in (await broker.reports.report(said)).body


def test_an_adapters_mapping_is_kept_and_comes_back_as_it_was(home: Path) -> None:
    path = home / "c.yml"
    path.write_text(yaml.safe_dump(offer(adapter={"kind": "x", "target": "t", "path": {"a": [1]}})))
    [entry] = catalog_file.parse(path).tools
    assert entry.adapter is not None
    assert entry.adapter.mapping == {"path": {"a": [1]}}
    assert orjson.loads(entry.adapter.model_dump_json()) == {
        "kind": "x",
        "target": "t",
        "runs_on": "worker",
        "path": {"a": [1]},
    }
