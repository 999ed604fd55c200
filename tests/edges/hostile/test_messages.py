"""Every method and every built-in tool of MCP, in both eras, with a hostile sender's values.

Answered in bound; an error says in a sentence what was wrong; what was taken is as it was sent.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import pytest

from app.contract import CallMeta
from app.edges.mcp import command_tools, saga_tools
from app.edges.mcp.front import Front
from app.edges.mcp.legacy.tasks import VERSION as LEGACY
from tests.edges.hostile.draws import turns
from tests.edges.hostile.messages import ERA, META, METHODS, OURS, TOOLS
from tests.edges.hostile.places import Pointer, at, of_schema, of_value, reached, spliced
from tests.edges.hostile.rounds import Asked, Good, Headers, Place, filled, header, one_round
from tests.edges.hostile.values import Value
from tests.edges.hostile.wire import Answer
from tests.edges.hostile.world import World
from tests.edges.mcp.wire import VERSION as MODERN

pytestmark = pytest.mark.thorough

ERROR_MAX: Final = 5000
ABOUT: Final = "dev.mcpbroker/command"
ARGS: Final = "SELECT args::text FROM commands WHERE id = $1"
DEPTH_MAX: Final = 4
"""Of a saga's plan, which plain HTTP's test goes through."""
MAKES: Final = {"probe_echo", "service_configure", "git_clone", "policy_asked", "saga_run"}
HEADERS: Final = (
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "mcp-session-id",
    "mcp-param-region",
    "idempotency-key",
    "last-event-id",
    "accept",
    "content-type",
    "traceparent",
    "origin",
)
NOWHERE: Final = Place(kind="nowhere", at=())
NOTHING: Final = Value(written=b"null")
ONE_PAGE: Final = {"tools/list", "resources/list", "resources/templates/list", "nothing/such"}
EVENTS: Final = {"events/list", "events/subscribe", "events/unsubscribe"}
"""Refused: a cursor where there is one page, a secret that is none, and what is not there."""
NOT_TAKEN: Final = {
    MODERN: {*ONE_PAGE, *EVENTS, "ping", "policy_asked"},
    LEGACY: {*ONE_PAGE, "server/discover", "policy_asked"},
}
"""Refused: with a cursor where there is one page, a forged state, of another era."""
ERAS: Final = (MODERN, LEGACY)
EVERY: Final = [(era, name) for era in ERAS for name in (*TOOLS, *METHODS[era])]


def goods(era: str, name: str) -> list[Good]:
    return [*(TOOLS.get(name) or METHODS[era][name])]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of MCP in an era, or a tool."""

    era: str
    what: str

    @property
    def name(self) -> str:
        return f"{self.era} {self.what}"

    def asked(self, good: Good, place: Place, value: Value, subject: str, key: str) -> Asked:
        body = filled(good.body, subject, key)
        method, params = body["method"], body["params"]
        if self.era == MODERN:
            params["_meta"] = {**ERA, **params.get("_meta", {})}
        elif place.at[:2] == ("params", "_meta"):
            params.setdefault("_meta", {})
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"accept", b"application/json, text/event-stream"),
            (b"mcp-protocol-version", self.era.encode()),
        ]
        if self.era == MODERN:
            named = next((params[one] for one in ("name", "uri", "taskId") if one in params), None)
            headers.append((b"mcp-method", method.encode()))
            if isinstance(named, str):
                headers.append((b"mcp-name", named.encode()))
        written = json.dumps(body).encode()
        if place.kind == "body":
            written = spliced(body, place.at, value.written)
        elif place.kind == "more":
            at(body, place.at)["surprise"] = None
            written = spliced(body, (*place.at, "surprise"), value.written)
        elif place.kind == "header":
            name, said = header(str(place.at[0]), value)
            headers = [*((one, told) for one, told in headers if one != name), (name, said)]
        return Asked(method="POST", path="/mcp", headers=headers, body=written)

    def refusal(self, answer: Answer) -> str | None:
        if answer.status == 202:
            return None
        assert "content-type" in answer.headers, (answer.status, answer.headers, answer.content)
        if answer.status >= 400 and not answer.content:
            return ""
        said = message_of(answer)
        if "error" in said:
            return str(said["error"]["message"])
        if "result" not in said:
            return str(said["code"])  # a problem, of the way in
        if said["result"].get("isError"):
            return str(said["result"]["content"][0]["text"])
        return None

    def made(self, answer: Answer) -> str | None:
        if self.what not in MAKES and self.what != "tools/call as a task":
            return None
        result = message_of(answer)["result"]
        found = result.get("_meta", {}).get(ABOUT, {}).get("command_id")
        return found or result.get("taskId")

    def kept(self, place: Place) -> tuple[str, Pointer] | None:
        inside = ("params", "arguments")
        if place.kind == "body" and place.at[:2] == inside and self.what in MAKES - {"saga_run"}:
            return ARGS, inside
        return None

    def well_formed(self, answer: Answer, shown: str) -> None:
        assert answer.status == 202 or answer.status in {200, *range(400, 500)}, (
            f"{answer.status} {answer.text[:500]}: {shown}"
        )
        refusal = self.refusal(answer)
        if refusal is not None:
            assert refusal, f"refused without a word, {answer.status}: {shown}"
            told = json.dumps(message_of(answer), ensure_ascii=False)
            assert len(told) < ERROR_MAX, f"{len(told)} characters: {shown}"


def message_of(answer: Answer) -> Any:
    """The message that answers, which may be the last of a stream."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        lines = [line for line in answer.content.split(b"\n") if line.startswith(b"data: {")]
        said = json.loads(lines[-1].removeprefix(b"data: "))
        return said if "method" not in said else {"result": said["params"]}
    return answer.json()


def places(era: str, good: Good, *, whole: bool) -> Iterator[Place]:
    """Where in a message a value can stand; `whole`: in what all messages have, too."""
    wanted = {*of_value(good.body)}
    params = good.body["params"]
    if params.get("name") in command_tools.SCHEMAS:
        schema = command_tools.SCHEMAS[params["name"]]
        wanted |= {("params", "arguments", *one) for one in of_schema(schema, {})}
    if whole:
        wanted |= {("params", "_meta", f"{META}{name}") for name in CallMeta.model_fields}
        if era == MODERN:
            wanted |= {("params", "_meta", name) for name in ERA}
        yield Place(kind="more", at=("params", "_meta"))
        for name in HEADERS:
            yield Place(kind="header", at=(name,))
    else:
        common = {(), ("jsonrpc",), ("id",), ("method",)}
        ours = {("params", "_meta", name) for name in OURS}
        wanted -= common | ours | {("params", "_meta"), ("params",)}
    yield Place(kind="more", at=("params",))
    for one in sorted(wanted, key=str):
        shallow = len(one) <= DEPTH_MAX or params.get("name") != "saga_run"
        if shallow and (reached(good.body, one) or one[:2] == ("params", "_meta")):
            yield Place(kind="body", at=one)


@pytest.mark.guarantee("hostile:answered")
async def test_every_method_and_every_tool_of_ours_has_a_message_here(world: World) -> None:
    served = vars(Front(world.broker).server())["_request_handlers"].keys()
    assert served <= {"tools/call", *METHODS[MODERN], *METHODS[LEGACY]}
    ours = [*command_tools.TOOLS, *saga_tools.TOOLS]
    assert {tool.name for tool in ours} <= TOOLS.keys()
    for tool in ours:
        out_of_reach = [
            one
            for one in of_schema(tool.input_schema, {})
            if not any(reached(good.body["params"]["arguments"], one) for good in TOOLS[tool.name])
        ]
        assert not out_of_reach, f"{tool.name}: give it a call that has what these are in"


@pytest.mark.guarantee("hostile:answered")
@pytest.mark.parametrize(("era", "name"), EVERY)
async def test_what_stands_in_a_message_is_taken_as_it_was_sent_or_refused(
    world: World, era: str, name: str
) -> None:
    drawn = turns(f"{era} {name}")
    for good in goods(era, name):
        whole = name in {"probe_echo", "tasks/get"}
        await plain(world, Method(era, name), good)
        for place, (turn, rounds) in zip(places(era, good, whole=whole), drawn, strict=False):
            for values in rounds:
                await one_round(world, Method(era, name), good, place, values, turn)
    await world.neighbour("after")


async def plain(world: World, method: Method, good: Good) -> None:
    """Each message is taken where it can be, but for what is hostile in it."""
    about = None if good.about is None else str(await good.about(world))
    asked = method.asked(good, NOWHERE, NOTHING, str(about), str(uuid4()))
    answer = await world.http.ask(asked.method, asked.path, asked.headers, asked.body)
    taken = method.refusal(answer) is None
    assert taken == (method.what not in NOT_TAKEN[method.era]), answer.text
