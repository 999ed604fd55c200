"""Every kind of answer fits the schema that its tool lists, by each SDK's own validator."""

import json
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
from mcp.shared.exceptions import MCPError

from app.contract import KEY_META
from tests.edges.mcp.conftest import ERAS, Front
from tests.edges.mcp.wire import call, message, send
from tests.support import npm
from tests.support.npm import UnreachableError
from tests.system.interop import typescript_sdk
from tests.system.interop.jobs import ERRORS, RESULTS, Jobs

ENDS: Final = "interop_ends"
FAILS: Final = frozenset(ERRORS) | {"native error", "refused", "no such argument"}
KINDS: Final[dict[str, dict[str, Any]]] = {how: {"how": how} for how in (*RESULTS, *ERRORS)} | {
    "refused": {"how": 7},
    "no such argument": {"how": "fits", "what": 1},
}
CALLS: Final[list[dict[str, Any]]] = [
    {"kind": kind, "name": ENDS, "arguments": args} for kind, args in KINDS.items()
] + [{"kind": "accepted", "name": "interop_slow", "arguments": {"job": "answers"}}]


def check(kind: str, answer: dict[str, Any]) -> None:
    """What a model reads of it, of the content or of the structured content alone."""
    assert "threw" not in answer, (kind, answer)
    assert bool(answer.get("isError")) == (kind in FAILS), (kind, answer)
    told = answer.get("structuredContent")
    assert told is not None, kind
    words = " ".join(one["text"] for one in answer["content"] if one["type"] == "text")
    if kind in FAILS and kind != "native error":
        assert told["next_step"], (kind, told)
        assert told["next_step"] in words, (kind, words)
        assert told["status"] in {"failed", "refused"}
        assert told["error"]["code"]
    if kind == "accepted":
        assert "Do not call this tool again" in told["next_step"]
    if kind.endswith(("misfits", "misfit", "list", "null", "large")):
        assert told["status"] == "succeeded", (kind, told)
        assert told["command_id"]
        assert "do not call the tool again" in told["next_step"]
    if kind == "misfits":
        assert told["result"] == {"gone": "all"}


@pytest.mark.guarantee("mcp:answers-fit")
async def test_every_kind_of_answer_fits_the_listed_schema_over_the_wire(
    front: Front, jobs: Jobs
) -> None:
    async with front.http("wire-answers") as http:
        listed = message(await send(http, "tools/list", {}))["result"]["tools"]
        schemas = {tool["name"]: tool["outputSchema"] for tool in listed if "outputSchema" in tool}
        for one in CALLS:
            answer = (await call(http, one["name"], one["arguments"]))["result"]
            check(one["kind"], answer)
            problems = jsonschema_rs.validator_for(schemas[one["name"]]).iter_errors(
                answer["structuredContent"]
            )
            assert not list(problems), (one["kind"], answer)
        await call(http, ENDS, {"how": "fits"}, meta={KEY_META: "answers"})
        other = (await call(http, ENDS, {"how": "null"}, meta={KEY_META: "answers"}))["result"]
        assert other["structuredContent"]["error"]["code"] == "idempotency_conflict"
        assert jsonschema_rs.is_valid(schemas[ENDS], other["structuredContent"])


@pytest.mark.guarantee("mcp:answers-fit")
@pytest.mark.parametrize("mode", ERAS)
async def test_the_python_sdk_takes_every_kind_of_answer(
    front: Front, jobs: Jobs, mode: str
) -> None:
    async with front.client(f"python-answers-{mode}", mode=mode) as client:
        await client.list_tools()
        for one in CALLS:
            try:
                made = await client.call_tool(one["name"], one["arguments"])
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
    token = front.issuer.token(tenant="demo", user=f"node-{version}", scopes=("tools",))
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
