"""What the kernel's tests share: identities, requests, adapters, and a look at the tables."""

from random import Random
from typing import Any
from uuid import UUID

import asyncpg

from app.catalog.policy import ToolPolicy
from app.commands import control, results
from app.commands.attempts import Change
from app.commands.results import Claim
from app.commands.store import commands
from app.commands.store.commands import Command
from app.edges.calls import Accepted, submit
from app.edges.parts import Parts
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.postgres.engine import tenant_transaction

ADA = Identity(tenant_id="demo", user_id="ada", client_id="ada", scopes=frozenset({"tools"}))
BOB = Identity(tenant_id="demo", user_id="bob", client_id="bob", scopes=frozenset({"tools"}))
EVE = Identity(tenant_id="other", user_id="eve", client_id="eve", scopes=frozenset({"tools"}))
ADAPTER = Identity(
    tenant_id="adapters", user_id="eda", client_id="eda", scopes=frozenset({"results:write"})
)


def echo(text: str = "hi", **more: Any) -> CallRequest:
    return CallRequest(tool="probe", method="echo", args={"text": text}, **more)


def delete(dest: str = "d", **more: Any) -> CallRequest:
    return CallRequest(tool="git", method="delete", args={"dest": dest}, **more)


async def accept(broker: Parts, request: CallRequest, who: Identity = ADA) -> Accepted:
    return await submit(broker, who, request)


async def subject(broker: Parts, command_id: UUID) -> Command:
    """A command, whoever's it is."""
    tenant_id = await results.owner(broker.database.engine, ADAPTER, command_id)
    async with tenant_transaction(broker.database.engine, tenant_id) as conn:
        found = await commands.find(conn, command_id)
    assert found is not None
    return found


async def policy_of(broker: Parts, command_id: UUID) -> ToolPolicy:
    found = await subject(broker, command_id)
    return await broker.catalog.policy(found.tool, found.method)


async def claim(broker: Parts, command_id: UUID, *, attempt: int = 1, run: str = "run-1") -> Claim:
    return await results.claim(
        broker.database.engine,
        adapter=ADAPTER,
        policy=await policy_of(broker, command_id),
        command_id=command_id,
        attempt=attempt,
        run=run,
        leases=broker.leases,
    )


async def finish(
    broker: Parts,
    command_id: UUID,
    *,
    attempt: int | None = None,
    result: Any = None,
    error: dict[str, Any] | None = None,
) -> Change:
    word = await results.finish(
        broker.database.engine,
        adapter=ADAPTER,
        policy=await policy_of(broker, command_id),
        command_id=command_id,
        attempt=attempt,
        result=result,
        error=error,
        random=Random(1),
    )
    broker.announce(word)
    return word


async def redrive(broker: Parts, command_id: UUID, *, policy: ToolPolicy | None = None) -> Change:
    """As an operator, in one transaction."""
    async with tenant_transaction(broker.database.engine, "demo") as conn:
        found = await commands.find(conn, command_id)
        assert found is not None
        return await control.redrive(
            conn,
            await control.locked(conn, found),
            policy=policy or ToolPolicy(),
            actor="operator:olga",
            reason="mended",
            deadline_s=60,
        )


async def fetch(dsn: str, query: str, *values: Any) -> list[asyncpg.Record]:
    """Look at the tables as the owner, past row-level security's app policy."""
    conn = await asyncpg.connect(dsn)
    try:
        return await conn.fetch(query, *values)
    finally:
        await conn.close()


async def counts(dsn: str) -> tuple[int, int, int]:
    """Commands, outbox rows, audit events."""
    rows = await fetch(
        dsn,
        "SELECT (SELECT count(*) FROM commands) AS c, (SELECT count(*) FROM outbox) AS o,"
        " (SELECT count(*) FROM audit.events) AS e",
    )
    return rows[0]["c"], rows[0]["o"], rows[0]["e"]


async def state_of(dsn: str, command_id: UUID) -> str:
    rows = await fetch(dsn, "SELECT state FROM commands WHERE id = $1", command_id)
    return rows[0]["state"]
