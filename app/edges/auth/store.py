"""The table of DPoP proofs that were taken: what one replica took, no other takes."""

from typing import Final

import asyncpg

# Of nothing but an unlogged table, so its commit waits for no disk.
TAKE: Final = """
    INSERT INTO dpop_proofs (digest, kept_until)
    VALUES ($1, now() + make_interval(secs => $2))
        ON CONFLICT DO NOTHING
"""
FORGET: Final = """
    DELETE FROM dpop_proofs
     WHERE digest IN (SELECT digest FROM dpop_proofs WHERE kept_until < now() LIMIT $1)
"""


async def take(pool: asyncpg.Pool, digest: bytes, *, kept_s: float) -> bool:
    """Remember a proof; False where one of the replicas has taken it."""
    assert kept_s > 0
    return await pool.execute(TAKE, digest, kept_s) == "INSERT 0 1"


async def forget(pool: asyncpg.Pool, *, limit: int) -> None:
    """Forget what is too old to be shown again."""
    await pool.execute(FORGET, limit)
