"""Every kind of answer fits the schema that its tool lists, by each SDK's own validator."""

import json
from pathlib import Path
from typing import Any, Final

import httpx2
import jsonschema_rs
import pytest
from mcp.shared.exceptions import MCPError

from app.contract import KEY_META
from tests.edges.mcp import wire
from tests.edges.mcp.conftest import ERAS, Front
from tests.edges.mcp.wire import call, message, send
from tests.support import npm
from tests.support.calls import fetch
from tests.support.npm import UnreachableError
from tests.system.interop import typescript_sdk
from tests.system.interop.jobs import ERRORS, RESULTS, Jobs

ENDS: Final = "interop_ends"
FAILS: Final = frozenset(ERRORS) | {"native error", "refused", "no such argument", "conflict"}
KINDS: Final[dict[str, dict[str, Any]]] = {how: {"how": how} for how in (*RESULTS, *ERRORS)} | {
    "refused": {"how": 7},
    "no such argument": {"how": "fits", "what": 1},
}
SLOW: Final[dict[str, Any]] = {"name": "interop_slow", "arguments": {"job": "answers"}}
CALLS: Final[list[dict[str, Any]]] = [
    {"kind": kind, "name": ENDS, "arguments": args} for kind, args in KINDS.items()
] + [
    {"kind": "accepted", **SLOW},
    {"kind": "joined", **SLOW},
    {"kind": "waits", "name": "interop_asked", "arguments": {"job": "answers"}},
    {"kind": "purged", "name": ENDS, "arguments": {"how": "fits"}, "meta": {KEY_META: "purged"}},
]
"""Each kind of answer, in this order: who joins comes after whom it joins."""
CONFLICT: Final[dict[str, Any]] = {**CALLS[-1], "kind": "conflict", "arguments": {"how": "null"}}
VERSIONS: Final = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", wire.VERSION]
TYPED: Final = VERSIONS[2:]
"""Those that have structured content."""


async def purge(front: Front, http: httpx2.AsyncClient) -> None:
    """A command that ended long ago, found again by the last of the calls."""
    made = (await call(http, ENDS, {"how": "fits"}, meta={KEY_META: "purged"}))["result"]
    await fetch(
        front.dsns.owner,
        "UPDATE commands SET purged_at = now(), args = NULL, result = NULL WHERE id = $1::uuid",
        made["_meta"]["dev.mcpbroker/command"]["command_id"],
    )


def check(kind: str, answer: dict[str, Any]) -> None:
    """What a model reads of it, of the content or of the structured content alone."""
    assert "threw" not in answer, (kind, answer)
    assert bool(answer.get("isError")) == (kind in FAILS), (kind, answer)
    told = answer.get("structuredContent")
    assert told is not None, kind
    large = kind in {"large", "large misfit", "large error"}
    links = [one for one in answer["content"] if one["type"] == "resource_link"]
    assert bool(links) == large, (kind, links)
    if kind in {"fits", "native"}:
        return
    if kind.endswith(("misfits", "misfit", "list", "null", "large")):
        assert told["status"] == "succeeded", (kind, told)
        assert told["command_id"]
        assert "do not call the tool again" in told["next_step"]
    if kind == "misfits":
        assert told["result"] == {"gone": "all"}
    if not kind.startswith("native"):
        check_words(kind, told, " ".join(one.get("text", "") for one in answer["content"]))


def check_words(kind: str, told: dict[str, Any], words: str) -> None:
    """What to do next is in both, in the same words."""
    assert told["next_step"], (kind, told)
    assert told["next_step"] in words, (kind, words)
    if kind in FAILS:
        status = {"unknown": "dead_lettered"}.get(kind)
        assert told["status"] == status or told["status"] in {"failed", "refused"}, (kind, told)
        assert told["error"]["code"]
    if kind == "unknown":
        assert (told["outcome_unknown"], "unknown" in told["next_step"]) == (True, True)
    if kind in {"accepted", "joined"}:
        assert "Do not call this tool again" in told["next_step"]
        assert told["result_uri"] == f"command://{told['command_id']}"
        assert told.get("deduplicated", False) == (kind == "joined")
    if kind == "waits":
        assert "waits for an operator's approval" in words
        assert "still running" not in words
    if kind == "purged":
        assert told["purged_at"]
        assert "Do not repeat the call" in told["next_step"]


@pytest.mark.guarantee("mcp:answers-fit")
@pytest.mark.parametrize("version", VERSIONS)
async def test_every_kind_of_answer_fits_the_listed_schema_over_the_wire(
    front: Front, jobs: Jobs, version: str
) -> None:
    async with front.http(f"wire-answers-{version}") as http:
        await purge(front, http)

        async def ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
            if version != wire.VERSION:
                return (await wire.send_old(http, version, method, params))["result"]
            meta, name = params.pop("_meta", None), params.get("name")
            return message(await send(http, method, params, name=name, meta=meta))["result"]

        listed = (await ask("tools/list", {}))["tools"]
        schemas = {tool["name"]: tool["outputSchema"] for tool in listed if "outputSchema" in tool}
        for one in [*CALLS, CONFLICT]:
            params = {"name": one["name"], "arguments": one["arguments"]}
            answer = await ask("tools/call", params | {"_meta": one.get("meta", {})})
            check(one["kind"], answer)
            if version in TYPED:
                problems = jsonschema_rs.validator_for(schemas[one["name"]]).iter_errors(
                    answer["structuredContent"]
                )
                assert not list(problems), (one["kind"], answer)


@pytest.mark.guarantee("mcp:answers-fit")
@pytest.mark.parametrize("mode", ERAS)
async def test_the_python_sdk_takes_every_kind_of_answer(
    front: Front, jobs: Jobs, mode: str
) -> None:
    user = f"python-answers-{mode}"
    async with front.http(user) as http:
        await purge(front, http)
    async with front.client(user, mode=mode) as client:
        await client.list_tools()
        for one in CALLS:
            try:
                made = await client.call_tool(one["name"], one["arguments"], meta=one.get("meta"))
                answer = made.model_dump(mode="json", by_alias=True, exclude_none=True)
            except (MCPError, RuntimeError) as error:
                answer = {"threw": str(error)}
            check(one["kind"], answer)


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        return typescript_sdk.install()
    except UnreachableError as error:
        pytest.skip(f"the TypeScript SDK is not cached and npm is unreachable: {error}")


@pytest.mark.guarantee("mcp:answers-fit")
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
async def test_both_lines_of_the_typescript_sdk_take_every_kind_of_answer(
    front: Front, jobs: Jobs, packages: Path, version: str
) -> None:
    user = f"node-{version}"
    token = front.issuer.token(tenant="demo", user=user, scopes=("tools",))
    async with front.http(user) as http:
        await purge(front, http)
    code, said, complained = await npm.node(
        typescript_sdk.script(packages, "answers"),
        f"{front.app.url}/mcp",
        version,
        run_s=60,
        MCP_TOKEN=token,
        CALLS=json.dumps(CALLS),
    )
    assert code == 0, complained.decode()
    answers = json.loads(said)
    assert answers.keys() == {one["kind"] for one in CALLS}
    for kind, answer in answers.items():
        check(kind, answer)
