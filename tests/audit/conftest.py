"""A real log: events of two tenants, sealed by a real sealer on the relay's role."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit import erasing
from app.audit.anchoring import Anchor
from app.audit.keys import FileSigner, sign_request
from app.audit.note import key_id_of
from app.audit.proof import Check, Report
from app.audit.request import Retire
from app.audit.store import export, retention
from app.audit.store.retention import Erasure
from app.cli.audit import feed
from devstack.stack import Dsns
from relay.sealer import Retention, Sealer
from tests.support import stack
from tests.support.stack import PostgresServer

LOG = "broker.test/audit"
DAY_S = 86400.0

MONTH = """
    CREATE TABLE audit.events_{name} PARTITION OF audit.events
       FOR VALUES FROM ('{first}+00') TO ('{last}+00');
    ALTER TABLE audit.events_{name} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE audit.events_{name} FORCE ROW LEVEL SECURITY;
    SELECT audit.guard('audit.events_{name}')
"""
"""A month as `audit.ensure_partitions` makes it."""


@dataclass(slots=True, kw_only=True)
class Log:
    """One database with its owner's connection, the relay's pool, a key and a sealer."""

    dsns: Dsns
    owner: asyncpg.Connection
    pool: asyncpg.Pool
    key: Ed25519PrivateKey
    officer: Ed25519PrivateKey
    sealer: Sealer

    @property
    def officers(self) -> dict[str, bytes]:
        public = self.officer.public_key().public_bytes_raw()
        return {key_id_of(public): public}

    async def ask(
        self,
        before: datetime,
        *,
        officer: Ed25519PrivateKey | None = None,
        log: str = LOG,
    ) -> int:
        """A retention officer signs for a retirement; the relay has not looked at it yet."""
        asked = Retire(id=uuid4(), asked_at=datetime.now(UTC), reason="policy 12", before=before)
        note = await sign_request(asked, FileSigner(officer or self.officer), log=log)
        conn = await asyncpg.connect(self.dsns.retention)
        try:
            return await retention.ask(conn, note)
        finally:
            await conn.close()

    async def retire(self, before: datetime) -> None:
        """What an officer signs for is sealed."""
        made = await self.ask(before)
        await self.seal()
        assert await retention.outcome(self.owner, made) == (True, None)

    async def erase(
        self, user: str, *, batch: int = 5000, officer: Ed25519PrivateKey | None = None
    ) -> list[Erasure]:
        conn = await asyncpg.connect(self.dsns.retention)
        try:
            signer = FileSigner(officer or self.officer)
            done = erasing.erase(
                conn, "demo", user, reason="request 12", signer=signer, log=LOG, batch=batch
            )
            return [one async for one in done]
        finally:
            await conn.close()

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

    async def sealed(self, tenant: str = "demo") -> int:
        """How many events are sealed; their numbers are dense."""
        row = await self.owner.fetchrow(
            "SELECT count(*) AS n, coalesce(max(seq), 0) AS top FROM audit.members"
            " WHERE tenant_id = $1",
            tenant,
        )
        assert row is not None
        assert row["n"] == row["top"]
        return row["n"]

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
        return await check(
            self.owner,
            tenant,
            keys=keys,
            anchors=anchors or [],
            pinned=pinned,
            retention_keys=self.officers,
        )

    async def anchors(self) -> list[Anchor]:
        """What was published, as Kafka would have it."""
        rows = await self.owner.fetch(
            "SELECT payload ->> 'tenant_id' AS tenant_id, (payload ->> 'seal_no')::int AS seal_no,"
            " decode(payload ->> 'digest', 'hex') AS digest, payload ->> 'attestation' AS"
            " attestation FROM outbox WHERE kind = 'audit' ORDER BY id"
        )
        return [Anchor(**dict(row)) for row in rows]

    def pem(self, path: Path, key: Ed25519PrivateKey | None = None) -> Path:
        """A public key, as an auditor pins it: the relay's, or another."""
        path.write_bytes(
            (key or self.key)
            .public_key()
            .public_bytes(
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
    retention_keys: dict[str, bytes] | None = None,
) -> Report:
    async with conn.transaction(isolation=None):
        made = Check(
            tenant, keys=keys, anchors=anchors, pinned=pinned, retention_keys=retention_keys
        )
        await feed(made, conn, tenant)
    return made.report()


def sealer(pool: asyncpg.Pool, key: Ed25519PrivateKey, **more: Any) -> Sealer:
    return Sealer(pool, [FileSigner(key)], log=LOG, **more)


@asynccontextmanager
async def open_log(dsns: Dsns) -> AsyncGenerator[Log]:
    owner = await asyncpg.connect(dsns.owner)
    pool = await asyncpg.create_pool(dsns.relay, min_size=1, max_size=4)
    key, officer = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    public = officer.public_key().public_bytes_raw()
    policy = Retention(keys={key_id_of(public): public}, kept_s=DAY_S)
    made = sealer(pool, key, retention_policy=policy)
    try:
        yield Log(dsns=dsns, owner=owner, pool=pool, key=key, officer=officer, sealer=made)
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
