"""What somebody may call: matched once, not at every look of every stream."""

from dataclasses import replace

import pytest

from app.catalog.cache import SEEN_KEPT_MAX
from app.edges.mcp.tool_changes import tools_changed
from app.edges.parts import Parts
from devstack.stack import Dsns
from tests.support.calls import ADA, BOB, EVE, fetch

GRANT = """
    INSERT INTO grants (tenant_id, subject_kind, subject, pattern, effect)
    VALUES ($1, 'user', $2, $3, $4)
"""


@pytest.mark.guarantee("mcp:list-cost")
async def test_a_look_at_an_unchanged_catalog_matches_nothing(broker: Parts) -> None:
    first = await broker.catalog.visible(ADA)
    assert [one.name for one in first.tools][:2] == ["git_clone", "git_delete"]
    assert await broker.catalog.visible(ADA) is first
    broker.catalog.forget()
    assert await broker.catalog.visible(ADA) is first, "read anew, and nothing was changed"
    assert await broker.catalog.visible(BOB) is first, "the same grants apply"


@pytest.mark.guarantee("mcp:list-cost")
async def test_a_change_of_tools_or_grants_is_seen_by_whom_it_concerns(
    broker: Parts, database: Dsns
) -> None:
    ada, bob = await broker.catalog.visible(ADA), await broker.catalog.visible(BOB)
    eve = await broker.catalog.visible(EVE)
    await fetch(database.owner, GRANT, "demo", "ada", "git/*", "deny")
    broker.catalog.forget()
    names = {one.name for one in (await broker.catalog.visible(ADA)).tools}
    assert names == {one.name for one in ada.tools} - {"git_clone", "git_delete"}
    assert await tools_changed(broker, ADA, ada.digest) != ada.digest
    assert await broker.catalog.visible(BOB) is bob
    assert await broker.catalog.visible(EVE) is eve
    await fetch(database.owner, "UPDATE tools SET retired_at = now() WHERE name = 'probe_echo'")
    broker.catalog.forget()
    for who, before in ((ADA, ada), (BOB, bob), (EVE, eve)):
        found = await broker.catalog.visible(who)
        assert found.digest != before.digest
        assert "probe_echo" not in {one.name for one in found.tools}


@pytest.mark.guarantee("mcp:list-cost")
async def test_who_asked_long_ago_takes_no_room(broker: Parts) -> None:
    first = await broker.catalog.visible(ADA)
    for n in range(SEEN_KEPT_MAX):
        seen = await broker.catalog.visible(replace(ADA, user_id=f"user-{n}"))
        assert seen is first
    assert len(broker.catalog._seen) == SEEN_KEPT_MAX  # pyright: ignore[reportPrivateUsage]
    assert await broker.catalog.visible(ADA) is first
