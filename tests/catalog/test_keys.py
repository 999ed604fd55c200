"""A key is shown, in Kafka too: no secret is in one, and a person's data as a hash only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.catalog.file import CatalogFile, ToolEntry
from app.catalog.ordering import KEY_MAX
from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from devstack.stack import Dsns
from tests.edges.mcp.conftest import offer
from tests.support.calls import accept, fetch

MARKED = {"x-sensitive": True}
MAIL = "ada@example.org"

TOOLS = """
tools:
  - tool: mail
    method: send
    description: Sends a mail.
    input_schema:
      type: object
      properties:
        to: {type: string, x-personal: true}
        text: {type: string}
      required: [to]
      additionalProperties: false
    policy: {ordering_key: to}
  - tool: vault
    method: put
    description: Puts a secret.
    input_schema:
      type: object
      properties:
        name: {type: string}
        pin: {type: string, x-sensitive: true}
      additionalProperties: false
    policy: {ordering_key: name}
  - tool: vault
    method: hide
    description: Puts what Kafka is not to have.
    input_schema:
      type: object
      properties: {what: {type: string}}
      additionalProperties: false
    policy: {ordering_key: what, args: by_reference, ordering_scope: method}
"""

WHEREVER = """
    SELECT count(*)
      FROM (SELECT to_jsonb(o) - 'id' AS row FROM outbox o
             UNION ALL SELECT to_jsonb(h) FROM ordering_heads h
             UNION ALL SELECT to_jsonb(c) - 'args' FROM commands c
             UNION ALL SELECT to_jsonb(e) #- '{body,args}' FROM audit.events e) AS said
     WHERE strpos(row::text, $1) > 0
"""


def entry(properties: dict[str, Any], *, key: str | None = "k", **schema: Any) -> ToolEntry:
    return ToolEntry.model_validate(
        {
            "tool": "t",
            "method": "m",
            "description": "d",
            "input_schema": {"type": "object", "properties": properties, **schema},
            "policy": {"ordering_key": key},
        }
    )


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.parametrize(
    ("properties", "schema"),
    [
        ({"k": {"type": "string", **MARKED}}, {}),
        ({"k": {"$ref": "#/$defs/s"}}, {"$defs": {"s": MARKED}}),
        ({"k": {"allOf": [{"anyOf": [{}, MARKED]}]}}, {}),
        ({"k": {"type": "object", "properties": {"inner": MARKED}}}, {}),
        ({"k": {"items": {"$ref": "#/$defs/s"}}}, {"$defs": {"s": MARKED}}),
        ({"k": {}}, {"allOf": [{"properties": {"k": MARKED}}]}),
        ({"other": MARKED}, {}),
        ({"other": {}}, {"patternProperties": {"^k": MARKED}}),
    ],
)
def test_a_tool_whose_order_would_show_a_secret_is_refused_when_the_catalog_is_applied(
    properties: dict[str, Any], schema: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=r"a key is shown|is no argument"):
        entry(properties, **schema)
    assert entry(properties, key=None, **schema), "only its order was refused"


@pytest.mark.guarantee("redaction:keys")
def test_an_argument_beside_a_secret_may_order() -> None:
    assert entry({"k": {"type": "string"}, "other": MARKED})
    defined: dict[str, Any] = {"$defs": {"name": {}}}
    assert entry({"k": {"$ref": "#/$defs/name"}, "o": MARKED}, **defined)


@pytest.mark.guarantee("redaction:keys")
def test_no_secret_is_mirrored_in_a_header_of_mcp() -> None:
    header = {"x-mcp-header": "Region"}
    with pytest.raises(ValidationError, match="x-mcp-header as well"):
        entry({"a": {"properties": {"b": {"type": "string", **MARKED, **header}}}}, key=None)
    assert entry({"a": {"type": "string", **header}, "b": MARKED}, key=None)


@pytest.fixture
async def tools(database: Dsns, tmp_path: Path) -> None:
    (tmp_path / "tools.yml").write_text(TOOLS)
    await offer(database.owner, tmp_path / "tools.yml")


def mail(to: str = MAIL, **more: Any) -> CallRequest:
    return CallRequest(tool="mail", method="send", args={"to": to}, **more)


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.usefixtures("tools")
async def test_a_persons_data_orders_as_a_hash_and_is_nowhere_else(
    broker: Parts, database: Dsns
) -> None:
    for key in ("first", "second"):
        await accept(broker, mail(idempotency_key=key))
    await accept(broker, mail("bob@example.org"))
    held = await fetch(database.owner, "SELECT ordering_key, held FROM commands ORDER BY id")
    assert [row["held"] for row in held] == [False, True, False], "equal values wait, others do not"
    assert held[0]["ordering_key"].startswith("mail:#")
    assert await fetch(database.owner, WHEREVER, MAIL) == [(0,)]
    assert await fetch(database.owner, WHEREVER, held[0]["ordering_key"]) != [(0,)]


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.usefixtures("tools")
async def test_an_older_catalogs_order_by_a_secret_is_a_hash_too(
    broker: Parts, database: Dsns
) -> None:
    await fetch(
        database.owner,
        "UPDATE tools SET policy = policy || $1, digest = 'older' WHERE tool = 'vault'",
        '{"ordering_key": ["pin"]}',
    )
    args = {"name": "n", "pin": "pin-123456"}
    await accept(broker, CallRequest(tool="vault", method="put", args=args))
    assert await fetch(database.owner, WHEREVER, "pin-123456") == [(0,)]
    [row] = await fetch(database.owner, "SELECT ordering_key FROM commands")
    assert row["ordering_key"].startswith("vault:#")


@pytest.mark.usefixtures("tools")
async def test_long_values_that_begin_alike_are_keys_of_their_own(
    broker: Parts, database: Dsns
) -> None:
    await accept(broker, CallRequest(tool="vault", method="put", args={"name": "n" * 300 + "a"}))
    await accept(broker, CallRequest(tool="vault", method="put", args={"name": "n" * 300 + "b"}))
    rows = await fetch(database.owner, "SELECT ordering_key, held FROM commands")
    assert [row["held"] for row in rows] == [False, False]
    assert all(len(row["ordering_key"]) <= KEY_MAX for row in rows)


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.usefixtures("tools")
async def test_what_is_not_for_kafka_is_in_no_key(broker: Parts, database: Dsns) -> None:
    await accept(broker, CallRequest(tool="vault", method="hide", args={"what": "not-for-kafka"}))
    assert await fetch(database.owner, WHEREVER, "not-for-kafka") == [(0,)]


@pytest.mark.guarantee("redaction:keys")
@pytest.mark.usefixtures("tools")
async def test_no_hash_in_the_audit_trail_lets_a_secret_be_guessed(
    broker: Parts, database: Dsns
) -> None:
    put = CallRequest(tool="vault", method="put", args={"name": "n", "pin": "1234"})
    first = await accept(broker, replace(put, idempotency_key="k"))
    assert (await accept(broker, replace(put, idempotency_key="k"))).replayed
    await accept(broker, mail())
    accepted = "audit.events WHERE type = 'command.accepted'"
    query = "SELECT tool, fingerprint FROM {} ORDER BY tool"
    events = await fetch(database.owner, query.format(accepted))
    rows = await fetch(database.owner, query.format("commands"))
    assert [row["fingerprint"] is None for row in events] == [False, True]
    assert events[0]["fingerprint"] == rows[0]["fingerprint"], "what is not secret can be compared"
    assert first.written.fingerprint == rows[1]["fingerprint"]


def test_methods_that_share_keys_have_them_hashed_alike() -> None:
    def made(method: str, *, personal: bool) -> ToolEntry:
        field = {"type": "string", "x-personal": personal}
        return entry({"k": field}).model_copy(update={"method": method})

    with pytest.raises(ValidationError, match="share no key"):
        CatalogFile(tools=(made("a", personal=True), made("b", personal=False)))
    assert CatalogFile(tools=(made("a", personal=True), made("b", personal=True)))
