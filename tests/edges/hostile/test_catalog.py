"""Every field of a catalog file: put in force as it was written, or refused with its place.

What is in force is listed, called, claimed and reported of; whatever its policy says, no relay's
clock and no other tool stumbles over it.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from app.catalog import file as catalog_file
from app.errors import BadRequestError
from app.postgres.migrate import connected
from tests.edges.hostile.draws import turns
from tests.edges.hostile.places import Pointer, of_schema, of_value, reached, spliced
from tests.edges.hostile.rounds import filled
from tests.edges.hostile.values import Value, same
from tests.edges.hostile.wire import Answer
from tests.edges.hostile.world import BOUND_S, World
from tests.support.stack import wait_for

pytestmark = pytest.mark.thorough

ERROR_MAX: Final = 5000
SCHEMA: Final = catalog_file.ToolEntry.model_json_schema()
TRIAL: Final[dict[str, Any]] = {
    "tool": "trial",
    "method": "m{key12}",
    "name": "trial_{key12}",
    "title": "t",
    "description": "d",
    "input_schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "title": "T", "x-sensitive": True},
            "other": {"type": "string"},
        },
        "required": ["text"],
    },
    "output_schema": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}},
    "annotations": {"readOnlyHint": False, "title": "t"},
    "policy": {
        "retry": {"attempts_max": 2},
        "asks": [{"key": "k", "message": "m", "arguments": ["other"]}],
        "ordering_key": ["other"],
        "approval": {
            "by": "operator",
            "approvers": ["a"],
            "quorum": 2,
            "expires_s": 3600,
            "escalate_s": 60,
            "escalate_to": ["b"],
            "when": "has(args.other) && args.other == 'ask'",
        },
    },
    "adapter": {"kind": "playbook", "playbook": "mcp_echo_adapter", "runs_on": "eda"},
    "in_flight_max": 5,
}
STORED: Final = """
    SELECT to_jsonb(t)::text FROM tools t WHERE t.tool = $1 AND t.method = $2
"""
PLACES: Final = sorted(
    {
        one
        for one in {*of_schema(SCHEMA, SCHEMA["$defs"]), *of_value(TRIAL)}
        if one and reached(TRIAL, one)
    },
    key=str,
)
TIMES: Final = (
    b"tools: [{tool: t, method: m, description: d, input_schema: {type: object}, policy: {HERE}}]"
)
ASKED: Final = (
    b"tools: [{tool: t, method: m, description: d,"
    b" input_schema: {type: object, properties: {x: true}},"
    b" policy: {asks: [{key: k, message: m, arguments: [x]}]}}]"
)
YAML: Final = {"no JSON", "no numbers"}
"""Kinds of which some are texts to YAML."""
COLUMNS: Final = {"title", "description", "input_schema", "output_schema", "annotations"}


def parsed(path: Path, written: bytes, shown: str) -> catalog_file.CatalogFile | None:
    """What is in the file; None where it was refused in words."""
    path.write_bytes(written)
    try:
        return catalog_file.parse(path)
    except BadRequestError as error:
        said = str(error)
    assert 0 < len(said) < ERROR_MAX, f"{len(said)} characters: {shown}"
    return None


async def in_force(world: World, place: Pointer, values: Mapping[str, Value], path: Path) -> None:
    """Apply each that is taken, and use it."""
    for label, value in values.items():
        shown = f"{'/'.join(map(str, place))}, {label}: {value}"
        entry = filled(TRIAL, "", str(uuid4()))
        written = b'{"tools": [' + spliced(entry, place, value.written) + b"]}"
        file = parsed(path, written, shown)
        if file is None:
            continue
        assert not value.refused or label in YAML, f"taken: {shown}"
        try:
            async with connected(world.dsns.owner) as engine:
                await catalog_file.apply(engine, file, prune=False)
        except BadRequestError:
            continue  # its adapter has no such target
        [made] = file.tools
        stored = json.loads(await world.asked(STORED, made.tool, made.method))
        if place[0] in COLUMNS and label not in YAML:
            sent = json.loads(written)["tools"][0].get(place[0])
            assert sent is None or same(sent, stored[place[0]]), shown
        await used(world, made, shown)


async def used(world: World, made: catalog_file.ToolEntry, shown: str) -> None:
    """It is listed, and a call of it goes its way, to its end."""
    body = {"tool": made.tool, "method": made.method, "args": {"text": "x"}}

    async def known() -> Answer | None:
        answer = await world.http.post("/mcp/tools/call", body, prefer="respond-async")
        return None if answer.status == 404 else answer

    answer = await wait_for(known, BOUND_S)
    assert answer is not None
    assert answer.status in {202, 400, 422}, f"{answer.status} {answer.text[:500]}: {shown}"
    lists = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    both = "application/json, text/event-stream"
    listed = await world.http.post("/mcp", lists, accept=both)
    assert listed.status == 200, f"{listed.status} {listed.text[:500]}: {shown}"
    if answer.status != 202:
        return
    one = answer.json()["command_id"]
    for path, report in (
        ("/claim", {"attempt": 1, "adapter": "run"}),
        ("/progress", {"stage": "s", "attempt": 1}),
        ("", {"status": "error", "error": {"code": "c"}, "attempt": 1}),
    ):
        said = await world.http.post(f"/results/{one}{path}", report)
        assert said.status in {200, 409}, f"{path} {said.status} {said.text[:500]}: {shown}"
    found = await world.http.get(f"/commands/{UUID(one)}")
    assert found["tool"] == made.tool


@pytest.mark.guarantee("hostile:catalog")
def test_every_field_of_a_catalog_file_has_a_place_here(tmp_path: Path) -> None:
    plain = json.dumps({"tools": [filled(TRIAL, "", str(uuid4()))]})
    assert parsed(tmp_path / "catalog.yml", plain.encode(), "the plain one")
    out_of_reach = [one for one in of_schema(SCHEMA, SCHEMA["$defs"]) if not reached(TRIAL, one)]
    assert not out_of_reach


@pytest.mark.guarantee("hostile:catalog")
@pytest.mark.parametrize("field", sorted({str(one[0]) for one in PLACES}))
async def test_what_stands_in_a_catalog_is_in_force_as_written_or_refused(
    world: World, field: str, tmp_path: Path
) -> None:
    found = [one for one in PLACES if one[0] == field]
    for place, (_, rounds) in zip(found, turns(field), strict=False):
        for values in rounds:
            await in_force(world, place, values, tmp_path / "catalog.yml")
    async with asyncio.timeout(BOUND_S):
        await world.lab.tick()
    await world.neighbour("after")


@pytest.mark.guarantee("hostile:catalog")
@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"\xff", "neither JSON nor YAML"),
        (b"tools: [", "neither JSON nor YAML"),
        (b"tools: []\ntools: []", "stands twice"),
        (b'{"tools": [], "tools": []}', "stands twice"),
        (b"tools: " + b"[" * 1000, "nested deeper"),
        (b"tools: " + b"9" * 5000, "neither JSON nor YAML"),
        (b"tools: 18446744073709551616", "64 bits"),
        (b"tools: .nan", "NaN"),
        (b'tools: "\\ud800"', "surrogate"),
        (b'tools: "\\0"', "NUL"),
        (b"tools: {1: x}", "not plain JSON"),
        (b"tools: {[1]: x}", "neither JSON nor YAML"),
        (b"tools: !!python/object:os.system {}", "neither JSON nor YAML"),
        (b"tools: !!binary aGk=", "not plain JSON"),
        (b"tools: !!set {a}", "not plain JSON"),
        (b"a: &a [*a]", "not there yet"),
        (
            b"a0: &a0 [1, 1]\n"
            + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)),
            "more than 1000000 values",
        ),
        (TIMES.replace(b"HERE", b"deadline_s: 1.0e+300"), "policy.deadline_s is over"),
        (TIMES.replace(b"HERE", b"lease_s: .inf"), "NaN and infinity"),
        (TIMES.replace(b"HERE", b"retry: {backoff_s: 1.0e+20}"), "policy.retry.backoff_s is over"),
        (TIMES.replace(b"policy: {HERE}", b"in_flight_max: 2147483648"), "2147483647"),
        (ASKED, "no argument that a form"),
        (b"", "valid"),
        (b"[]", "valid"),
    ],
)
def test_a_file_that_is_no_catalog_is_refused_in_words(
    tmp_path: Path, written: bytes, said: str
) -> None:
    path = tmp_path / "catalog.yml"
    path.write_bytes(written)
    with pytest.raises(BadRequestError, match=said) as refused:
        catalog_file.parse(path)
    assert len(str(refused.value)) < ERROR_MAX
