"""A real log: events of two tenants, sealed by a real sealer on the relay's role."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit.keys import FileSigner
from app.audit.note import key_id_of
from app.audit.proof import Anchor, Check, Report
from app.audit.store import export
from devstack.stack import Dsns
from relay.sealer import Sealer
from tests.support import stack
from tests.support.stack import PostgresServer

LOG = "broker.test/audit"


@dataclass(slots=True, kw_only=True)
class Log:
    """One database with its owner's connection, the relay's pool, a key and a sealer."""

    dsns: Dsns
    owner: asyncpg.Connection
    pool: asyncpg.Pool
    key: Ed25519PrivateKey
    sealer: Sealer

    @property
    def keys(self) -> dict[str, bytes]:
        public = self.key.public_key().public_bytes_raw()
        return {key_id_of(public): public}

    async def append(self, count: int = 1, *, tenant: str = "demo", body: str = "{}") -> None:
        """Events, each in a transaction of its own, with every column filled in."""
        for n in range(count):
            await self.owner.execute(
                "INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, saga_id,"
                " tool, method, attempt, state_from, state_to, fingerprint, body)"
                " VALUES ($1, 'command.succeeded', 'adapter:eda', 'ada', gen_random_uuid(),"
                " gen_random_uuid(), 'git', 'clone', $2, 'running', 'succeeded',"
                " sha256('x'), $3)",
                tenant,
                n + 1,
                body,
            )

    async def seal(self) -> None:
        while await self.sealer.tick():
            pass

    async def verify(self, tenant: str = "demo", *more: Any) -> asyncpg.Record:
        places = ", ".join(f"${n}" for n in range(1, len(more) + 2))
        row = await self.owner.fetchrow(f"SELECT * FROM audit.verify({places})", tenant, *more)
        assert row is not None
        return row

    async def check(
        self, tenant: str = "demo", *, anchors: list[Anchor] | None = None, pinned: bool = True
    ) -> Report:
        """The check that believes no function of the database."""
        keys = self.keys if pinned else await export.keys(self.owner)
        return await check(self.owner, tenant, keys=keys, anchors=anchors or [], pinned=pinned)

    async def anchors(self) -> list[Anchor]:
        """What was published, as Kafka would have it."""
        rows = await self.owner.fetch(
            "SELECT payload ->> 'tenant_id' AS tenant_id, (payload ->> 'seal_no')::int AS seal_no,"
            " decode(payload ->> 'digest', 'hex') AS digest, payload ->> 'attestation' AS"
            " attestation FROM outbox WHERE kind = 'audit' ORDER BY id"
        )
        return [Anchor(**dict(row)) for row in rows]

    def pem(self, path: Path) -> Path:
        """The public key, as an auditor pins it."""
        path.write_bytes(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        return path


async def check(
    conn: asyncpg.Connection,
    tenant: str,
    *,
    keys: dict[str, bytes],
    anchors: list[Anchor],
    pinned: bool = True,
) -> Report:
    async with conn.transaction(isolation=None):
        seen = await export.overview(conn, tenant)
        made = Check(
            tenant,
            keys=keys,
            anchors=anchors,
            pinned=pinned,
            retired_before=seen.retired_before,
        )
        async for line in export.log(conn, tenant):
            made.add(line)
    return made.report()


def sealer(pool: asyncpg.Pool, key: Ed25519PrivateKey, **more: Any) -> Sealer:
    return Sealer(pool, [FileSigner(key)], log=LOG, **more)


@asynccontextmanager
async def open_log(dsns: Dsns) -> AsyncGenerator[Log]:
    owner = await asyncpg.connect(dsns.owner)
    pool = await asyncpg.create_pool(dsns.relay, min_size=1, max_size=4)
    key = Ed25519PrivateKey.generate()
    try:
        yield Log(dsns=dsns, owner=owner, pool=pool, key=key, sealer=sealer(pool, key))
    finally:
        await pool.close()
        await owner.close()


@pytest.fixture
async def log(database: Dsns) -> AsyncIterator[Log]:
    async with open_log(database) as made:
        yield made


@pytest.fixture(scope="module")
async def sealed_log(template: PostgresServer) -> AsyncIterator[Log]:
    """Three seals of `demo` (events 1-5, 6-9, 10-12) and two of `other`; for tests that only
    change it inside a transaction that they roll back."""
    dsns = await stack.clone(template.superuser_dsn)
    async with open_log(dsns) as made:
        for count in (5, 4, 3):
            await made.append(count)
            if count > 3:
                await made.append(2, tenant="other")
            await made.seal()
        yield made
    await stack.drop(template.superuser_dsn, dsns)
