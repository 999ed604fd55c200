"""Grants of which a rule says of which calls they speak; in doubt, a call is denied."""

from typing import Any

import pytest
import typer

from app.catalog import store as catalog_store
from app.catalog.policy import Grant
from app.cli.tenant import condition
from app.edges.parts import Parts
from app.errors import ForbiddenError, InvalidDefinitionError, UnknownToolError
from app.identity import Identity
from app.postgres.migrate import connected
from app.sagas import registry
from app.sagas.parse import parse
from devstack.stack import Dsns
from tests.support.calls import accept, counts, delete, echo, fetch


def grant(pattern: str, effect: str = "allow", when: str = "") -> Grant:
    return Grant(subject_kind="tenant", subject="*", pattern=pattern, effect=effect, when=when)


async def granted(broker: Parts, database: Dsns, *grants: Grant) -> None:
    """These and no others."""
    async with connected(database.owner) as engine, engine.begin() as conn:
        await catalog_store.revoke(conn, "demo", await catalog_store.grants(conn, "demo"))
        await catalog_store.grant(conn, "demo", grants)
    broker.catalog.forget()


ANN = Identity(
    tenant_id="demo",
    user_id="ann",
    client_id="cli",
    groups=frozenset({"ops"}),
    scopes=frozenset({"tools"}),
)
DENIED = """
    SELECT body ->> 'reason' AS reason, body ->> 'policy' AS policy FROM audit.events
     WHERE type = 'call.denied' ORDER BY occurred_at DESC LIMIT 1
"""
ROWS: tuple[tuple[tuple[Grant, ...], str, bool], ...] = (
    ((grant("probe/*", when="args.text == 'a'"),), "a", True),
    ((grant("probe/*", when="args.text == 'a'"),), "b", False),
    ((grant("probe/*", when="args.text > 1"),), "a", False),
    ((grant("*"), grant("probe/*", when="args.text > 1")), "a", True),
    ((grant("*"), grant("probe/*", "deny", "args.text == 'a'")), "a", False),
    ((grant("*"), grant("probe/*", "deny", "args.text == 'a'")), "b", True),
    ((grant("*"), grant("probe/*", "deny", "args.text > 1")), "b", False),
    ((grant("probe/*", when="'ops' in claims.groups"),), "a", True),
    ((grant("probe/*", when="claims.user == 'bob' || 'ops' in claims.scopes"),), "a", False),
    ((grant("probe/*", when="'change-7' in labels"),), "a", False),
    ((grant("git/*", "deny", "true"), grant("*")), "a", True),
)


@pytest.mark.guarantee("rules:grants")
@pytest.mark.parametrize(("grants", "text", "may"), ROWS)
async def test_a_call_is_taken_where_the_rules_of_its_grants_say_so(
    broker: Parts, database: Dsns, grants: tuple[Grant, ...], text: str, *, may: bool
) -> None:
    await granted(broker, database, *grants)
    if may:
        one = (await accept(broker, echo(text), ANN)).written.id
        rows = await fetch(
            database.owner,
            "SELECT body -> 'grants' AS g FROM audit.events WHERE command_id = $1",
            one,
        )
        asked = any(one.when for one in grants if one.pattern != "git/*")
        assert (rows[0]["g"] is not None) == asked
        return
    before = await counts(database.owner)
    with pytest.raises(ForbiddenError, match="Nothing was started"):
        await accept(broker, echo(text), ANN)
    assert (await counts(database.owner))[:2] == before[:2]
    view = await broker.catalog.tenant("demo")
    assert view is not None
    [row] = await fetch(database.owner, DENIED)
    assert row["policy"] == view.version.hex()
    assert "when" in row["reason"]


@pytest.mark.guarantee("rules:grants")
async def test_labels_are_what_a_rule_may_read(broker: Parts, database: Dsns) -> None:
    await granted(broker, database, grant("*", when="'change-7' in labels"))
    assert (await accept(broker, echo("a", labels=("change-7",)), ANN)).written.new
    with pytest.raises(ForbiddenError):
        await accept(broker, echo("a", labels=("change-8",)), ANN)


@pytest.mark.guarantee("rules:grants")
async def test_the_rule_shows_the_tool_and_an_undo_is_held_to_it(
    broker: Parts, database: Dsns
) -> None:
    await granted(broker, database, grant("probe/*"), grant("git/*", when="args.dest == 'x'"))
    names = {tool.path for tool in (await broker.catalog.visible(ANN)).tools}
    assert {"git/delete", "probe/echo"} <= names
    await accept(broker, delete("x"), ANN)
    with pytest.raises(ForbiddenError):
        await accept(broker, delete("y"), ANN)
    undo = {"tool": "git", "method": "delete", "args": {"dest": "y"}}
    with pytest.raises(ForbiddenError):
        await accept(broker, echo("a", compensation=undo), ANN)
    await granted(broker, database, grant("probe/*"))
    with pytest.raises(UnknownToolError):
        await accept(broker, delete("x"), ANN)


STEP: dict[str, Any] = {
    "name": "s",
    "steps": [{"id": "a", "tool": "probe_echo", "args": {"text": "x"}, "kind": "readonly"}],
}


@pytest.mark.guarantee("rules:sagas")
@pytest.mark.parametrize(
    ("grants", "may"),
    [
        ((grant("*", when="args.text == 'x'"),), False),
        ((grant("*"), grant("probe/*", "deny", "args.text == 'y'")), False),
        ((grant("*", when="claims.user == 'ann'"),), True),
        ((grant("*", when="claims.user == 'bob'"),), False),
    ],
)
async def test_a_saga_calls_what_its_caller_may_whatever_the_arguments_come_to_be(
    broker: Parts, database: Dsns, grants: tuple[Grant, ...], *, may: bool
) -> None:
    await granted(broker, database, *grants)
    checked = registry.checked(broker.catalog, ANN, parse(STEP))
    if may:
        assert (await checked).name == "s"
        return
    with pytest.raises(InvalidDefinitionError):
        await checked


@pytest.mark.guarantee("rules:checked")
@pytest.mark.parametrize("when", ["args.x +", "args.x + 1 > 2", "nothing", "'text'", "\0", "1"])
def test_a_grants_rule_is_checked_when_it_is_written(when: str) -> None:
    assert condition(None) == ""
    assert condition("args.x > 1") == "args.x > 1"
    with pytest.raises(typer.Exit):
        condition(when)


@pytest.mark.guarantee("rules:grants")
async def test_a_rule_that_this_release_cannot_read_allows_nothing(
    broker: Parts, database: Dsns
) -> None:
    await granted(broker, database, grant("*", when="tomorrow(args.text)"))
    with pytest.raises(ForbiddenError):
        await accept(broker, echo("a"), ANN)
    [row] = await fetch(database.owner, DENIED)
    assert "this release cannot read the rule" in row["reason"]


@pytest.mark.guarantee("rules:grants")
async def test_a_grant_that_is_given_again_has_its_new_condition(
    broker: Parts, database: Dsns
) -> None:
    await granted(broker, database, grant("*", when="args.text == 'a'"))
    async with connected(database.owner) as engine, engine.begin() as conn:
        again = [grant("*", when="args.text == 'b'")]
        assert await catalog_store.grant(conn, "demo", again) == 1
        assert await catalog_store.grant(conn, "demo", again) == 0
        assert [one.when for one in await catalog_store.grants(conn, "demo")] == [
            "args.text == 'b'"
        ]
