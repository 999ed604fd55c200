"""Runs the migrations as the role that owns the schema, with bounded locks and statements."""

import asyncio
import os
from typing import Any, Final

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.postgres.bounds import bound
from app.postgres.migrate import engine_of
from app.postgres.pooler import PoolerError, is_pooled
from app.postgres.tables import metadata

# Six group roles, one a duty. Login roles are the operator's: GRANT broker_app TO my_app_login.
ROLES: Final = """
    DO $$
    DECLARE name text;
    BEGIN
        FOREACH name IN ARRAY ARRAY['broker_owner', 'broker_app', 'broker_relay', 'broker_auditor',
                                    'broker_retention', 'broker_observer']
        LOOP
            BEGIN
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                    EXECUTE format('CREATE ROLE %I NOLOGIN NOBYPASSRLS', name);
                END IF;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another migration of this cluster was first
            END;
        END LOOP;
        IF pg_has_role(current_user, 'pg_database_owner', 'USAGE') OR
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            EXECUTE format('GRANT CREATE, CONNECT ON DATABASE %I TO broker_owner',
                           current_database());
            GRANT CREATE, USAGE ON SCHEMA public TO broker_owner;
        END IF;
    END $$
"""


ALONE: Final = "SELECT pg_try_advisory_lock(hashtextextended('mcpbroker.migrate', 0))"
ALONE_S: Final = 600.0


async def alone(conn: AsyncConnection) -> None:
    """Migrate one at a time in this database: whoever comes second finds it done.

    Asked for again and again, as a statement that waits would keep an index that is built beside
    the writers from its end, which waits for every statement that is older.
    """
    async with asyncio.timeout(ALONE_S):
        while not await conn.scalar(text(ALONE)):
            await conn.commit()
            await asyncio.sleep(0.2)
    await conn.commit()


def include_name(name: str | None, kind: str, _parents: Any) -> bool:
    """Compare our two schemas, and leave the partitions to `audit.ensure_partitions`."""
    if kind == "schema":
        return name in {None, "audit"}
    return not (kind == "table" and (name or "").startswith("events_"))


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_schemas=True,
        include_name=include_name,
        compare_server_default=False,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or os.environ["MCP_BROKER_DATABASE_URL"]
    engine = engine_of(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as conn:
            driver: Any = (await conn.get_raw_connection()).driver_connection
            if await is_pooled(driver):
                raise PoolerError(
                    "A pooler is between, and a migration needs a session: name the server itself."
                )
            await alone(conn)
            await conn.execute(text(ROLES))
            await conn.execute(text("SET ROLE broker_owner"))
            await conn.commit()
            # A migration that has to wait for a lock gives up rather than queue all traffic behind
            # it.
            await conn.run_sync(bound)
            await conn.run_sync(run)
            await conn.commit()
    finally:
        await engine.dispose()


asyncio.run(online())
