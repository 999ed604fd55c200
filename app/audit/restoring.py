"""A database that was put back on purpose: what its logs give up, signed for and recorded."""

from collections.abc import Sequence
from uuid import uuid4

import asyncpg

from app.audit.anchoring import Anchor
from app.audit.keys import Signer, sign_request
from app.audit.note import key_id_of
from app.audit.request import Restore
from app.audit.rulings import gives_up
from app.audit.store import export, restores

PASTS_MAX = 100
"""Of one log, that are given up at a time."""


async def accept(
    conn: asyncpg.Connection, anchors: Sequence[Anchor], *, reason: str, signer: Signer, log: str
) -> list[Restore]:
    """Give up, by an officer's signature, what was published and the database has not.

    One request a log and past, and an event in the log for each; all in one transaction.
    """
    made: list[Restore] = []
    async with conn.transaction():
        odd = await restores.unlike(conn, anchors, statement=restores.UNLIKE_BY_VERB)
        keys = {key_id_of(signer.public_key): signer.public_key}
        said = await restores.accepted(conn, {one.tenant_id for one in odd}, log=log, keys=keys)
        for tenant_id, lost in sorted(by_number(odd).items()):
            known = said.get(tenant_id, [])
            for _ in range(PASTS_MAX):
                left = {no: found for no, found in lost.items() if not gives_up(known, no, found)}
                if not left:
                    break
                named = {one.lost_digest for one in known}
                last = sorted(one.hex() for one in left[max(left)])
                asked = Restore(
                    id=uuid4(),
                    asked_at=await export.now(conn),
                    reason=reason,
                    tenant_id=tenant_id,
                    after_seal=min(left) - 1,
                    lost_seal=max(left),
                    lost_digest=next((one for one in last if one not in named), last[0]),
                )
                await restores.accept(conn, await sign_request(asked, signer, log=log))
                known.append(asked)
                made.append(asked)
    return made


def by_number(odd: Sequence[Anchor]) -> restores.Odd:
    """The digests by tenant and number."""
    found: restores.Odd = {}
    for one in odd:
        numbers = found.setdefault(one.tenant_id, {})
        numbers[one.seal_no] = numbers.get(one.seal_no, frozenset()) | {one.digest}
    return found
