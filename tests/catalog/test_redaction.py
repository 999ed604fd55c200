"""A secret argument is in no audit event, log line or problem, whatever becomes of the call."""

import io
import logging
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app import assets
from app.catalog.redaction import REDACTED, Secrets, mask, redact, secrets
from app.edges.parts import Parts
from app.logs import JsonFormatter
from app.postgres.engine import code_of
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.mcp import wire
from tests.edges.mcp.conftest import offer
from tests.support.calls import fetch
from tests.support.served import ADAPTER, Served, served

CANARY = "c4n4ry"
SEEN = "seen-in-audit"


def canary(n: int) -> str:
    return f"{CANARY}-{n}-secret"


ARGS: dict[str, Any] = {
    "plain": SEEN,
    "password": canary(1),
    "user": {"name": "bob", "password": canary(2)},
    "users": [{"name": "eve", "password": canary(3)}],
    "keys": ["first", canary(4), canary(5)],
    "either": canary(6),
    "deep": {"inner": canary(7), "more": [canary(8)]},
    "env": {"SECRET_A": canary(9), "HOME": "/root"},
    "unknown": canary(10),
}
EVERY = " ".join(canary(n) for n in range(1, 11))


def schema(**place: Any) -> dict[str, Any]:
    return {"type": "object", "properties": place, "$defs": {"s": {"x-sensitive": True}}}


MARKED = {"x-sensitive": True}


@pytest.mark.guarantee("redaction:by-schema")
@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("s", MARKED),
        ("s", {"$ref": "#/$defs/s"}),
        ("s", {"allOf": [{"type": "string"}, MARKED]}),
        ("s", {"oneOf": [{"type": "integer"}, {"anyOf": [{"$ref": "#/$defs/s"}]}]}),
        ("s", {"if": {"type": "string"}, "then": MARKED}),
        ("s", {"else": MARKED}),
        ("s", {"dependentSchemas": {"x": MARKED}}),
        ("s", {"$ref": "#/$defs/missing"}),
        ("s", {"$ref": "https://example.org/schema"}),
        (["a", "s"], {"prefixItems": [{}], "items": MARKED}),
        (["s"], {"items": {"properties": {}, "$ref": "#/$defs/s"}}),
        (["s"], {"contains": MARKED}),
        ({"k": "s"}, {"additionalProperties": MARKED}),
        ({"k": "s"}, {"unevaluatedProperties": MARKED}),
        ({"k": "s"}, {"patternProperties": {"^k$": MARKED}}),
        ({"k": ["x", {"l": "s"}]}, {"properties": {"k": {"items": {"properties": {"l": MARKED}}}}}),
        ({"k": "s"}, {"properties": {"other": {}}}),
        (12345, MARKED),
        ({"a": "s"}, MARKED),
    ],
)
def test_whatever_way_a_schema_marks_a_place_its_value_is_not_there(value: Any, place: Any) -> None:
    whole = schema(here=place, plain={}, other=MARKED)
    redacted = redact({"here": value, "plain": "p"}, whole)
    assert re.search(r"'s'|12345", str(redacted)) is None
    assert redacted["plain"] == "p"
    assert secrets({"here": value}, whole).texts == ({"12345"} if value == 12345 else set())


def test_a_schema_that_refers_to_itself_ends() -> None:
    loop = schema(here={"$ref": "#/properties/here"}, tree={"$ref": "#"}, p=MARKED)
    nested = {"tree": {"tree": {"p": "secret"}}, "here": 1}
    assert redact(nested, loop) == {"tree": {"tree": {"p": REDACTED}}, "here": 1}


def test_where_nothing_is_marked_nothing_is_redacted() -> None:
    assert redact({"a": [1, "b"]}, schema(a={})["properties"]) == {"a": [1, "b"]}
    assert not secrets({"a": "long enough"}, {"type": "object"})
    found = secrets({"a": ["long enough"]}, None)
    assert found.texts == {"long enough"}, "an unknown schema hides all"


def test_a_mask_reaches_keys_and_the_longer_secret_first() -> None:
    hidden = Secrets(texts=frozenset({"abcd", "abcdef", "1234"}))
    said = {"abcdef": ["x abcd y", 1234, True, None]}
    assert mask(said, hidden) == {REDACTED: [f"x {REDACTED} y", REDACTED, True, None]}


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as it would be written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


async def adapter(app: Served, one: UUID, path: str, **body: Any) -> Any:
    async with app.client("eda", *ADAPTER, tenant="adapters") as http:
        return await http.post(f"/results/{one}{path}", json=body)


async def start(app: Served, database: Dsns, **more: Any) -> tuple[UUID, Any]:
    """Accept one call and claim it."""
    body = {"tool": "vault", "method": "store", "args": ARGS, **more}
    async with app.client("ada") as http:
        answer = await http.post("/mcp/tools/call", json=body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    one = UUID(answer.json()["correlation_id"])
    claimed = await adapter(app, one, "/claim", attempt=1, adapter="run")
    assert claimed.json()["args"] == ARGS, "the adapter itself gets all of it"
    return one, answer


async def no_canary_is_in(said: list[str], log: str, owner_dsn: str) -> None:
    for text in said:
        assert CANARY not in text, text
    assert "call refused by the database" in log
    assert "request failed" in log
    assert CANARY not in log, [line for line in log.splitlines() if CANARY in line]
    events = await fetch(owner_dsn, "SELECT to_jsonb(e)::text AS e FROM audit.events e")
    assert len(events) > 14
    for event in events:
        assert CANARY not in event["e"], event["e"]
    assert any(SEEN in event["e"] for event in events), "what is not marked is in the trail"
    rows = await fetch(
        owner_dsn,
        "SELECT to_jsonb(c.error)::text AS error, c.message, c.stage FROM commands c",
    )
    assert CANARY not in str([dict(row) for row in rows])


@pytest.mark.guarantee("redaction:everywhere")
async def test_no_secret_is_in_audit_logs_or_problems_on_any_way_a_call_can_go(
    broker: Parts, database: Dsns, issuer: DevIssuer, logged: io.StringIO
) -> None:
    await offer(database.owner, assets.root() / "tests" / "tenancy" / "tools.yml")
    broker.catalog.forget()
    said: list[str] = []
    async with served(broker, issuer) as app, app.client("ada") as http:
        one, answer = await start(app, database)
        said.append(answer.text)
        message = f"logging in with {EVERY}"
        progress = await adapter(app, one, "/progress", stage=canary(1), message=message)
        said += [progress.text, (await http.get(f"/commands/{one}")).text]
        done = await adapter(app, one, "", status="ok", result={"token": canary(1)})
        assert done.status_code == 200
        late = {"status": "error", "error": {"message": message}}
        said.append((await adapter(app, one, "", **late)).text)

        for error in (message, {"code": "auth", "message": message, "seen": [canary(3)]}):
            two, _ = await start(app, database)
            said.append((await adapter(app, two, "", status="error", error=error)).text)
            said.append((await http.get(f"/commands/{two}")).text)
            said.append((await http.get(f"/commands/{two}/events")).text)
        three, _ = await start(app, database)
        said.append((await adapter(app, three, "/reject", reason=f"no rule for {EVERY}")).text)
        async with app.client("olga", "operator") as operator:
            said.append((await operator.get(f"/operator/dead-letters/{three}")).text)
            said.append((await operator.get("/operator/dead-letters")).text)

        wrong = {
            **ARGS,
            "pin": canary(1),
            "users": canary(2),
            "deep": canary(3),
            "env": [canary(9)],
        }
        body = {"tool": "vault", "method": "store", "args": wrong}
        refused = await http.post("/mcp/tools/call", json=body)
        assert refused.status_code == 422
        denied = await http.post("/mcp/tools/call", json={**body, "tool": "no"})
        assert denied.status_code == 404
        said += [refused.text, denied.text, str(await wire.call(http, "vault_store", wrong))]
        said.append(str(await wire.call(http, "no_such", wrong)))

        # The database itself refuses a row, and quotes it.
        await fetch(
            database.owner, "ALTER TABLE commands ADD CHECK (args ->> 'plain' <> 'bad') NOT VALID"
        )
        poison = {**body, "args": {**ARGS, "plain": "bad"}}
        said.append((await http.post("/mcp/tools/call", json=poison)).text)
        four, _ = await start(app, database)
        await fetch(database.owner, "ALTER TABLE commands ADD CHECK (result IS NULL) NOT VALID")
        broken = await adapter(app, four, "", status="ok", result={"token": canary(1)})
        assert broken.status_code == 500
        said.append(broken.text)

    await no_canary_is_in(said, logged.getvalue(), database.owner)


@pytest.mark.guarantee("redaction:everywhere")
def test_a_trace_is_logged_without_what_the_database_quotes(logged: io.StringIO) -> None:
    # Row-level security keeps PostgreSQL from quoting rows of most tables; values it may quote.
    for words in (
        f"violates a constraint\nDETAIL:  Failing row contains (1, {canary(1)}\n{canary(2)}).",
        f"invalid input for query argument $7: ['{canary(3)}'] (expected str)",
    ):
        error = asyncpg.DataError(words)
        outer = RuntimeError("while writing")
        outer.__cause__ = error
        logging.getLogger("app").error("failed", exc_info=outer)
        assert CANARY not in code_of(error)
    assert "while writing" in logged.getvalue()
    assert "not logged" in logged.getvalue()
    assert CANARY not in logged.getvalue()
