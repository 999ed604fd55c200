"""A person's erasure, batch by batch: planned by the database, signed for, done as signed."""

from collections.abc import AsyncGenerator
from uuid import uuid4

import asyncpg

from app.audit.keys import Signer, sign_request
from app.audit.request import Erase
from app.audit.store import export, retention
from app.audit.store.retention import Erasure

BATCH: int = 2000


async def erase(
    conn: asyncpg.Connection,
    tenant_id: str,
    user_id: str,
    *,
    reason: str,
    signer: Signer,
    log: str,
    batch: int = BATCH,
) -> AsyncGenerator[Erasure]:
    """Erase what events and ended commands hold of a person, a signed request a batch.

    The request names the events by their digest, so it covers no others; the person has no name
    in it. Nothing to erase: nothing is said.

    Raises:
        asyncpg.ObjectNotInPrerequisiteStateError: a legal hold, or the person has open work.
    """
    more = True
    while more:
        plan = await retention.plan_erasure(conn, tenant_id, user_id, batch=batch)
        if not plan.ids and not plan.commands:
            yield Erasure(erasure=None, events=0, commands=0, kept=plan.kept, more=False)
            return
        asked = Erase(
            id=uuid4(),
            asked_at=await export.now(conn),
            reason=reason,
            tenant_id=tenant_id,
            months=plan.months,
        )
        note = await sign_request(asked, signer, log=log)
        done = await retention.erase(conn, tenant_id, user_id, plan=plan, request=note, batch=batch)
        yield done
        more = done.more
