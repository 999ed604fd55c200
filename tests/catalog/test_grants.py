"""Grants to groups: what a token's groups let its user list and call, and what they take away."""

from collections.abc import Collection
from uuid import uuid4

import httpx2
import pytest
import typer

from app.catalog import store as catalog_store
from app.catalog.policy import Grant, allowed
from app.catalog.store import Limits
from app.cli.tenant import parsed
from app.contract import META_PREFIX
from app.edges.parts import Parts
from app.identity import Identity
from app.postgres.migrate import connected
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.mcp import wire
from tests.support.calls import ADA, fetch
from tests.support.served import Served, served

GIT = {"git_clone", "git_delete"}
PLAIN = GIT | {"probe_echo"}
ARGUMENT = {"git_clone": "repo", "git_delete": "dest", "probe_echo": "text"}

GRANTS = (
    Grant(subject_kind="group", subject="ops", pattern="git/*", effect="allow"),
    Grant(subject_kind="group", subject="readers", pattern="probe/*", effect="allow"),
    Grant(subject_kind="user", subject="ann", pattern="git/*", effect="allow"),
    Grant(subject_kind="user", subject="ann", pattern="probe/*", effect="allow"),
    Grant(subject_kind="group", subject="trainees", pattern="git/delete", effect="deny"),
    # A pattern in a group's name is no pattern: a group is meant by its whole name.
    Grant(subject_kind="group", subject="*", pattern="*", effect="allow"),
)

# User, groups of the token, the tools that are granted.
ROWS: tuple[tuple[str, tuple[str, ...], Collection[str]], ...] = (
    ("olga", ("ops",), GIT),
    ("olga", ("ops", "readers", "of-no-grant"), PLAIN),
    ("olga", (), ()),
    ("olga", ("trainees",), ()),
    ("olga", ("op", "OPS", "ops ", "ops-2", "ops,readers"), ()),
    ("ops", (), ()),
    ("olga", ("ann",), ()),
    ("ann", (), PLAIN),
    ("ann", ("trainees",), PLAIN - {"git_delete"}),
    ("ann", ("ops", "trainees"), PLAIN - {"git_delete"}),
    ("olga", ("trainees", "ops"), GIT - {"git_delete"}),
)


async def listed(http: httpx2.AsyncClient) -> set[str]:
    """What tools/list shows beyond the broker's own tools."""
    answer = wire.message(await wire.send(http, "tools/list", {}))
    names = {tool["name"] for tool in answer["result"]["tools"]}
    return {name for name in names if not name.startswith(("command_", "saga_"))}


async def called(http: httpx2.AsyncClient) -> tuple[set[str], set[str]]:
    """The tools that a call of each one reaches: by HTTP, and by MCP."""
    by_http: set[str] = set()
    by_mcp: set[str] = set()
    for name in PLAIN:
        tool, _, method = name.partition("_")
        answer = await http.post(
            "/mcp/tools/call",
            json={"tool": tool, "method": method, "args": {ARGUMENT[name]: str(uuid4())}},
            headers={"Prefer": "respond-async"},
        )
        assert answer.status_code in {202, 404}, answer.text
        by_http |= {name} if answer.status_code == 202 else set()
        said = await wire.call(
            http, name, {ARGUMENT[name]: str(uuid4())}, meta={f"{META_PREFIX}wait_s": 0}
        )
        if "error" in said:
            assert said["error"]["message"].startswith(f"Unknown tool: {name}.")
        else:
            assert said["result"]["structuredContent"]["status"] == "accepted", said
            by_mcp.add(name)
    return by_http, by_mcp


async def commands(database: Dsns) -> int:
    return (await fetch(database.owner, "SELECT count(*) AS n FROM commands"))[0]["n"]


@pytest.mark.guarantee("access:grants")
@pytest.mark.guarantee("intake:refusals-leave-nothing")
async def test_a_tokens_groups_list_and_call_what_is_granted_and_a_groups_deny_wins(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with connected(database.owner) as engine, engine.begin() as conn:
        for tenant in ("teams", "elsewhere"):
            await catalog_store.put_tenant(conn, tenant, Limits())
        await catalog_store.grant(conn, "teams", GRANTS)

    async def check(
        app: Served, tenant: str, user: str, groups: tuple[str, ...], granted: set[str]
    ) -> None:
        before = await commands(database)
        async with app.client(user, tenant=tenant, groups=groups) as http:
            assert await listed(http) == granted, (user, groups)
            assert await called(http) == (granted, granted), (user, groups)
        assert await commands(database) == before + len(granted) * 2

    async with served(broker, issuer) as app:
        for user, groups, granted in ROWS:
            await check(app, "teams", user, groups, set(granted))
        await check(app, "elsewhere", "olga", ("ops", "readers"), set())


def test_only_stars_and_question_marks_of_a_pattern_are_special() -> None:
    def denied(subject: str, user: str) -> bool:
        grants = (
            Grant(subject_kind="tenant", subject="*", pattern="*", effect="allow"),
            Grant(subject_kind="user", subject=subject, pattern="*", effect="deny"),
        )
        who = Identity(tenant_id="demo", user_id=user, client_id=user)
        return not allowed("git/clone", grants, who)

    assert denied("bob[1]", "bob[1]")
    assert not denied("bob[1]", "bob1")
    assert denied("[!a]*", "[!a] b")
    assert not denied("[!a]*", "bob")
    assert denied("b?b*", "bob@example.org")
    assert not denied("b?b", "bob@example.org")


def test_a_denial_of_before_still_denies_and_no_new_one_has_a_bracket() -> None:
    grants = (
        Grant(subject_kind="tenant", subject="*", pattern="*", effect="allow"),
        Grant(subject_kind="tenant", subject="*", pattern="git/[cd]*", effect="deny"),
    )
    assert not allowed("git/clone", grants, ADA)
    with pytest.raises(typer.Exit):
        parsed(None, ["git/[cd]*"], new=True)
    assert parsed(None, ["git/[cd]*"], new=False)[0].pattern == "git/[cd]*"
