"""The table of docs/AUDITORS.md: every kind of tampering, tried, and what finds it.

The page's table is this test's own output: `make tampering` writes it.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app import assets
from app.audit.anchoring import Anchor
from app.audit.note import key_id_of
from app.audit.request import parse
from app.cli.audit import shape_fault
from relay.sealer import Retention
from tests.audit.conftest import LOG, Log, check, open_log, sealer
from tests.audit.tampering import tamper
from tests.audit.tampering_kinds import KINDS, SHAPE_SIGNED
from tests.audit.test_attacks import note, with_old_month
from tests.audit.test_shape import CHANGES
from tests.audit.test_tamper import rewrite
from tests.support import stack
from tests.support.stack import PostgresServer

PAGE = assets.root() / "docs" / "AUDITORS.md"
SCHEMA = [[one] for one in CHANGES.values()]
BEGIN, END = "<!-- tampering: by `make tampering` -->\n", "<!-- end of tampering -->\n"
HEAD = """
| What somebody did | tried | `audit.verify` | outside, with keys and anchors |
|---|---|---|---|
"""


@dataclass(slots=True)
class Row:
    """What was found of a kind."""

    title: str
    tried: int = 0
    in_sql: int = 0
    outside: int = 0
    missed_in_sql: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def count(self, name: str, in_sql: str | None, outside: str | None) -> None:
        self.tried += 1
        if (in_sql or "").startswith("impossible"):
            self.missed.append(f"{name}: {in_sql}")
        self.in_sql += in_sql is not None
        self.outside += outside is not None
        if in_sql is None:
            self.missed_in_sql.append(name)
        if in_sql is None and outside is None:
            self.missed.append(name)

    @property
    def line(self) -> str:
        return (
            f"| {self.title} | {self.tried} | {said(self.in_sql, self.tried)}"
            f" | {said(self.outside, self.tried)} |\n"
        )


def said(found: int, tried: int) -> str:
    return "found" if found == tried else "beyond it" if found == 0 else f"{found} of {tried}"


async def outcome(log: Log, anchors: list[Anchor]) -> tuple[str | None, str | None]:
    """What SQL finds, and what the check finds that asks no function of the database."""
    try:
        async with log.owner.transaction():
            found = await log.verify()
    except Exception as error:  # noqa: BLE001 a function that fails is a finding
        in_sql = f"failed: {error}"
    else:
        in_sql = None if found["ok"] is not False else str(found["reason"])
    report = await check(
        log.owner, "demo", keys=log.keys, anchors=anchors, retention_keys=log.officers
    )
    fault = report.fault
    if fault is None:
        async with log.owner.transaction():
            fault = await shape_fault(log.owner, log.keys, log=LOG)
    return in_sql, None if fault is None else fault.reason


async def in_vain(
    log: Log, anchors: list[Anchor], statements: Sequence[str]
) -> tuple[str | None, ...]:
    """What is found of a change that is taken back."""
    rollback = log.owner.transaction()
    await rollback.start()
    try:
        await log.owner.execute("SET LOCAL search_path = pg_catalog")
        try:
            if statements in SCHEMA:  # triggers are off and on again while a table is written to
                await log.owner.execute(statements[0])
            else:
                await tamper(log.owner, list(statements))
        except asyncpg.PostgresError as error:
            return f"impossible: {error}", None
        return await outcome(log, anchors)
    finally:
        await rollback.rollback()


@pytest.fixture(scope="module")
async def aged_log(template: PostgresServer) -> AsyncIterator[Log]:
    """A month that was retired and dropped, a person who was erased, a legal hold."""
    dsns = await stack.clone(template.superuser_dsn)
    async with open_log(dsns) as made:
        await with_old_month(made)
        await made.erase("ada")
        await made.append(2, body='{"args": {"p": "[redacted]"}}')
        await made.owner.execute("SELECT audit.hold('demo', 'case', NULL, NULL)")
        await made.seal()
        yield made
    await stack.drop(template.superuser_dsn, dsns)


async def with_another_key(log: Log) -> None:
    await rewrite(log, Ed25519PrivateKey.generate())


async def with_the_stolen_key(log: Log) -> None:
    await rewrite(log, log.key)


async def retired_by_the_relay_alone(log: Log) -> None:
    """Owner and relay together, with a request that no officer signed."""
    forger = Ed25519PrivateKey.generate()
    request = parse(await note(log, datetime(2020, 4, 1, tzinfo=UTC), officer=forger))
    assert request is not None
    public = forger.public_key().public_bytes_raw()
    policy = Retention(keys={key_id_of(public): public}, kept_s=0)
    await log.owner.execute("DELETE FROM leases")
    assert await sealer(log.pool, log.key, retention_policy=policy).retire(request)


async def erased_by_a_forger(log: Log) -> None:
    await log.erase("ada", officer=Ed25519PrivateKey.generate())
    await log.seal()


ALONE: dict[str, Callable[[Log], Awaitable[None]]] = {
    "all rewritten, sealed with another key": with_another_key,
    "all rewritten, sealed with the stolen key": with_the_stolen_key,
    "a retirement that no officer signed, sealed by the relay": retired_by_the_relay_alone,
    "an erasure that no officer signed": erased_by_a_forger,
}


def page(rows: Sequence[Row]) -> str:
    lines = [HEAD, *(row.line for row in rows)]
    lines += ["\nBeyond `audit.verify`, and found outside:\n\n"]
    for row in rows:
        missed = [name for name in row.missed_in_sql if name not in row.missed]
        lines += [
            f"- {row.title}: {name}\n" if name != row.title else f"- {name}\n" for name in missed
        ]
    return "".join(lines) + "\n"


@pytest.mark.guarantee("audit:tamper-evident")
@pytest.mark.timeout(240)
async def test_every_kind_of_tampering_is_found_as_the_auditors_page_says(
    sealed_log: Log, aged_log: Log, template: PostgresServer
) -> None:
    rows: list[Row] = []
    for log in (sealed_log, aged_log):
        anchors = await log.anchors()
        assert await outcome(log, anchors) == (None, None), "nothing was done yet"
    young, aged = await sealed_log.anchors(), await aged_log.anchors()
    for kind in KINDS:
        rows.append(row := Row(kind.title))
        for name, statements in kind.young.items():
            row.count(name, *await in_vain(sealed_log, young, statements))
        for name, statements in kind.aged.items():
            row.count(name, *await in_vain(aged_log, aged, statements))
    for name, statements in SHAPE_SIGNED.items():
        rows.append(row := Row(name))
        row.count(name, *await in_vain(sealed_log, young, statements))
    for name, attack in ALONE.items():
        rows.append(row := Row(name))
        dsns = await stack.clone(template.superuser_dsn)
        async with open_log(dsns) as log:
            await log.append(3)
            await log.seal()
            anchors = await log.anchors()
            await attack(log)
            row.count(name, *await outcome(log, anchors))
        await stack.drop(template.superuser_dsn, dsns)
    assert not [(row.title, name) for row in rows for name in row.missed], "found by nobody"
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}{page(rows)}{END}{after}"
    if os.environ.get("WRITE_TAMPERING"):
        PAGE.write_text(made, encoding="utf-8")
    assert text == made, "make tampering"
