"""Every scalar of the HTTP API, past 404, with what a hostile sender writes there.

Answered in bound, never with a 5xx or a redirect; taken as it was sent, or refused by a code and
nothing left behind; a repetition does nothing twice; another tenant's calls go on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_from_bytes
from uuid import uuid4

import pytest

from app.sagas.parse import DefinitionBody
from tests.edges.hostile.draws import turns
from tests.edges.hostile.places import Pointer, of_schema, of_value, reached
from tests.edges.hostile.rounds import Asked, Good, Headers, Place, body_of, header, one_round
from tests.edges.hostile.routes import ROUTES
from tests.edges.hostile.values import Value
from tests.edges.hostile.wire import Answer
from tests.edges.hostile.world import World

pytestmark = pytest.mark.thorough

ERROR_MAX: Final = 5000
PROBLEMS: Final = {"application/problem+json", "application/json"}
CALL: Final = "POST /mcp/tools/call"
RUN: Final = "POST /sagas"
CANCEL: Final = "POST /commands/{command_id}/cancel"
HOLD: Final = "POST /operator/holds"
REGISTER: Final = "POST /sagas/definitions"
ENDPOINT: Final = "POST /operator/webhooks"
DEPTHS: Final = {"POST /sagas/dry-run": 2, REGISTER: 3}
"""How deep a body is gone into where another route reads the same: `RUN` goes through a plan."""
OF_COMMAND: Final = "SELECT to_json({})::text FROM commands WHERE id = $1"
OF_AUDIT: Final = """
    SELECT (body::jsonb -> 'reason')::text
      FROM audit.events
     WHERE command_id = $1 AND body::jsonb ? 'reason'
     ORDER BY occurred_at DESC
     LIMIT 1
"""
IDS: Final = ("command_id", "correlation_id", "saga_id", "webhook_id", "delivery_id", "hold_id")
"""Names in paths of what a request is about."""
NOWHERE: Final = Place(kind="nowhere", at=())
NOTHING: Final = Value(written=b"null")
KEPT: Final[Mapping[str, tuple[str, ...]]] = {
    CALL: ("args", "idempotency_key", "ordering_key", "saga_step"),
    "POST /results/{correlation_id}": ("result",),
    "POST /results/{correlation_id}/progress": ("stage", "message"),
    RUN: ("input", "plan"),
}
"""Fields whose column shows what they were kept as."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the HTTP API."""

    name: str

    def asked(self, good: Good, place: Place, value: Value, subject: str, key: str) -> Asked:
        method, _, path = self.name.partition(" ")
        known = {**dict.fromkeys(IDS, subject), **good.path}
        for name, said in known.items():
            here = place == Place(kind="path", at=(name,))
            path = path.replace("{" + name + "}", quoted(value) if here else said)
        if place.kind == "query":
            path += f"?{place.at[0]}={quoted(value)}"
        headers: Headers = [(b"prefer", b"respond-async"), (b"content-type", b"application/json")]
        if self.name == RUN:
            headers.append((b"idempotency-key", key.encode()))
        if place.kind == "header":
            name, said = header(str(place.at[0]), value)
            if name == b"prefer":
                said = b"respond-async, wait=" + said  # else it would be waited for
            headers = [*((one, told) for one, told in headers if one != name), (name, said)]
        body = None if good.body is None else body_of(good, place, value, subject, key)
        return Asked(method=method, path=path, headers=headers, body=body)

    def refusal(self, answer: Answer) -> str | None:
        if answer.status >= 400:
            body = answer.json()
            return str(body.get("code") or body.get("reason"))
        if answer.path == "/results/batch":
            items = answer.json()["items"]
            bad = [one.get("code") or one.get("reason") for one in items if one["status"] >= 400]
            return str(bad[0]) if len(bad) == len(items) else None
        return None

    def made(self, answer: Answer) -> str | None:
        if self.name not in {CALL, RUN, REGISTER, HOLD, ENDPOINT}:
            return None
        body = answer.json()
        if self.name == ENDPOINT:
            return body["webhook_id"]
        if self.name == HOLD:
            return body.get("hold_id")  # none of a dry run
        if self.name == REGISTER:
            return f"definition {body['name']} {body['version']}"
        return body["command_id"]

    def kept(self, place: Place) -> tuple[str, Pointer] | None:
        if place.kind != "body" or not place.at or place.at[0] == "items":
            return None
        field = str(place.at[0])
        if field in KEPT.get(self.name, ()):
            column = f"args -> '{field}'" if self.name == RUN else field
            return OF_COMMAND.format(column), (field,)
        if self.name == HOLD and field in {"reason", "ordering_key"}:
            return f"SELECT to_json({field})::text FROM holds WHERE id = $1", (field,)
        if field == "reason" and self.name == CANCEL:
            return OF_COMMAND.format("error -> 'message'"), (field,)
        if field == "reason" and "{command_id}" in self.name:
            return OF_AUDIT, (field,)
        return None

    def well_formed(self, answer: Answer, shown: str) -> None:
        status = answer.status
        assert status < 300 or 400 <= status < 500, f"{status} {answer.text[:500]}: {shown}"
        if status >= 400:
            kind = answer.headers["content-type"]
            assert kind in PROBLEMS, f"{kind}: {shown}"
            assert self.refusal(answer) not in {None, "None", ""}, f"no code: {shown}"
            assert len(answer.text) < ERROR_MAX, f"{len(answer.text)} characters: {shown}"


def quoted(value: Value) -> str:
    """Every byte as %XX; nothing at all would be another path."""
    return quote_from_bytes(value.bare, safe="") or "%20"


def operations(document: Any) -> dict[str, Any]:
    """The routes of the API's own document."""
    return {
        f"{method.upper()} {path}": operation
        for path, found in document["paths"].items()
        for method, operation in found.items()
    }


def described(route: str, document: Any) -> set[Pointer]:
    """The places of a route's body, by its schema."""
    if route == REGISTER:  # JSON or YAML, so it is read elsewhere
        schema = DefinitionBody.model_json_schema()
        return {*of_schema(schema, schema["$defs"])}
    body = operations(document)[route].get("requestBody")
    if body is None:
        return set()
    schema = body["content"]["application/json"]["schema"]
    return {*of_schema(schema, document["components"]["schemas"])}


def places(route: str, good: Good, document: Any, seen: set[Pointer]) -> Iterator[Place]:
    """Where in this request a value can stand, and has not stood in another."""
    if good.body is not None:
        yield Place(kind="more", at=())
        yield Place(kind="name", at=())
        wanted = described(route, document) | {*of_value(good.body)}
        for at in sorted(wanted - seen, key=str):
            if reached(good.body, at) and len(at) <= DEPTHS.get(route, len(at)):
                seen.add(at)
                yield Place(kind="body", at=at)
    if good is ROUTES[route][0]:
        for one in operations(document)[route].get("parameters", ()):
            yield Place(kind=one["in"], at=(one["name"],))


@pytest.mark.guarantee("hostile:answered")
async def test_every_route_and_every_field_of_the_api_has_a_request_here(world: World) -> None:
    document = await world.http.get("/openapi.json")
    assert operations(document).keys() == ROUTES.keys()
    for route, goods in ROUTES.items():
        out_of_reach = [
            at
            for at in described(route, document)
            if not any(reached(one.body, at) for one in goods)
        ]
        assert not out_of_reach, f"{route}: give it a request that has what these are in"


@pytest.mark.guarantee("hostile:answered")
@pytest.mark.parametrize("route", ROUTES)
async def test_what_stands_in_a_field_is_taken_as_it_was_sent_or_refused(
    world: World, route: str
) -> None:
    document = await world.http.get("/openapi.json")
    seen = set[Pointer]()
    drawn = turns(route)
    for good in ROUTES[route]:
        await plain(world, route, good)
        for place, (turn, rounds) in zip(places(route, good, document, seen), drawn, strict=False):
            for values in rounds:
                await one_round(world, Route(route), good, place, values, turn)
    await world.neighbour("after")


async def plain(world: World, route: str, good: Good) -> None:
    """Each request is taken, but for what is hostile in it."""
    about = None if good.about is None else str(await good.about(world))
    asked = Route(route).asked(good, NOWHERE, NOTHING, str(about), str(uuid4()))
    answer = await world.http.ask(asked.method, asked.path, asked.headers, asked.body)
    assert Route(route).refusal(answer) is None, (answer.text, good)
