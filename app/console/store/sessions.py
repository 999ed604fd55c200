"""The console_sessions table: who is signed in, by the hash of a cookie."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.postgres.engine import dump

INSERT: Final = text("""
    INSERT INTO console_sessions
           (id_hash, tenant_id, user_id, identity, method, link_hash, expires_at)
    VALUES (:id_hash, :tenant_id, :user_id, CAST(:identity AS jsonb), :method, :link_hash,
            now() + make_interval(secs => :life_s))
""")

FIND: Final = text("""
    SELECT tenant_id, user_id, identity, method, created_at, expires_at,
           seen_at < now() - make_interval(secs => :touch_s) AS stale
      FROM console_sessions
     WHERE id_hash = :id_hash AND ended_at IS NULL AND expires_at > now()
       AND seen_at > now() - make_interval(secs => :idle_s)
""")

TOUCH: Final = text("""
    UPDATE console_sessions SET seen_at = now() WHERE id_hash = :id_hash AND ended_at IS NULL
""")

END: Final = text("""
    UPDATE console_sessions
       SET ended_at = now()
     WHERE id_hash = :id_hash AND ended_at IS NULL
    RETURNING tenant_id
""")

PURGE: Final = text("""
    DELETE FROM console_sessions
     WHERE id_hash IN (SELECT id_hash
                         FROM console_sessions
                        WHERE tenant_id = :tenant_id AND expires_at < now() - interval '1 day'
                        LIMIT 100)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A session that is in force."""

    tenant_id: str
    user_id: str
    identity: dict[str, Any]
    method: str
    created_at: datetime
    expires_at: datetime
    stale: bool
    """Its last request is long enough ago to be written down again."""


async def insert(
    conn: AsyncConnection,
    *,
    id_hash: bytes,
    tenant_id: str,
    user_id: str,
    identity: dict[str, Any],
    method: str,
    link_hash: bytes | None,
    life_s: float,
) -> bool:
    """Write a session; False where its one-time link was used before."""
    values = {
        "id_hash": id_hash,
        "tenant_id": tenant_id,
        "user_id": user_id,
        "identity": dump(identity),
        "method": method,
        "link_hash": link_hash,
        "life_s": life_s,
    }
    try:
        async with conn.begin_nested():
            await conn.execute(INSERT, values)
    except IntegrityError as error:
        if "uq_console_sessions_link_hash" not in str(error.orig):
            raise
        return False
    return True


async def find(
    conn: AsyncConnection, id_hash: bytes, *, idle_s: float, touch_s: float
) -> Row | None:
    """The session of this cookie, if it is in force."""
    values = {"id_hash": id_hash, "idle_s": idle_s, "touch_s": touch_s}
    row = (await conn.execute(FIND, values)).mappings().one_or_none()
    return None if row is None else Row(**row)


async def touch(conn: AsyncConnection, id_hash: bytes) -> None:
    """Write down that the session was used."""
    await conn.execute(TOUCH, {"id_hash": id_hash})


async def end(conn: AsyncConnection, id_hash: bytes) -> bool:
    """End the session; False where it was over."""
    return await conn.scalar(END, {"id_hash": id_hash}) is not None


async def purge(conn: AsyncConnection, *, tenant_id: str) -> None:
    """Remove some of a tenant's sessions that are over for a day."""
    await conn.execute(PURGE, {"tenant_id": tenant_id})
