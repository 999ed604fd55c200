"""docs/audit-format, of a real log that a real relay has sealed: `make vectors` writes it.

A bundle, its anchors and public keys, and every hash of docs/AUDIT_FORMAT.md by itself, each with
what it is over. Times, ids, salts and keys are new each time; the tests hold old ones to be good.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import orjson

from app import assets
from app.audit import event as audit
from app.audit import note, rulings, seal
from app.audit.bundle import EventFields, KeyLine, MemberLine, SealLine, parse
from app.audit.request import parse as parse_request
from app.audit.tree import Tree
from app.cli.audit import write_bundle
from relay.sealer import Retention
from tests.audit.conftest import LOG, MONTH, Log, sealer
from tests.audit.tampering import tamper
from tests.audit.test_restore import private
from tests.cli.test_audit import broker_audit
from tests.support.calls import fetch

FOLDER: Final = assets.root() / "docs" / "audit-format"
FILES: Final = (
    "bundle.ndjson",
    "anchors.ndjson",
    "seal.pub.pem",
    "officer.pub.pem",
    "vectors.json",
)
OLD: Final = datetime(2020, 4, 1, tzinfo=UTC)
EVERY: Final = 10**9


def plain(value: Any) -> Any:
    """As JSON has it."""
    return value.hex() if isinstance(value, bytes) else value


async def live(log: Log) -> None:
    """All that a log can have: a month retired and gone, an erasure, holds, and a restore."""
    await log.owner.execute("SET ROLE broker_owner")
    await log.owner.execute(MONTH.format(name="202003", first="2020-03-01", last="2020-04-01"))
    await log.owner.execute("RESET ROLE")
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, occurred_at, user_id, salt)"
        " SELECT 'demo', 'old.event', 'user:zoë', '2020-03-15', 'zoë',"
        " CASE WHEN n > 1 THEN sha256('x') END FROM generate_series(1, 3) AS n"
    )
    await log.append(2, body='{"args": {"text": "grüße", "p": "[redacted]"}}')
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, salt, occurred_at) VALUES"
        " ('demo', 'first.version', 'user:bob', NULL, clock_timestamp())"
    )
    await log.seal()
    await log.append(1)
    await log.seal()
    await log.retire(OLD)
    [dropped] = await fetch(log.dsns.retention, "SELECT * FROM audit.drop_oldest()")
    assert dropped["dropped"]
    await log.erase("ada")
    await log.append(3)
    await log.seal()
    await log.owner.execute("SELECT audit.hold('demo', 'case 7', '2025-01-01+00', NULL)")
    await log.seal()


async def restored(log: Log, anchors: Path, officer: Path) -> None:
    """The newest seal is lost, given up by the officer, and others are made in its place."""
    top = await log.owner.fetchrow(
        "SELECT seal_no, seq_from FROM audit.seals WHERE tenant_id = 'demo'"
        " ORDER BY seal_no DESC LIMIT 1"
    )
    assert top is not None
    lost = f"tenant_id = 'demo' AND seq >= {top['seq_from']}"
    await tamper(
        log.owner,
        [
            (
                "DELETE FROM audit.events WHERE event_id IN"
                f" (SELECT event_id FROM audit.members WHERE {lost})"
            ),
            "DELETE FROM audit.holds",
            f"DELETE FROM audit.members WHERE {lost}",
            f"DELETE FROM audit.seals WHERE tenant_id = 'demo' AND seal_no = {top['seal_no']}",
        ],
    )
    private(officer, log.officer)
    argv = ("accept-restore", "--database-url", log.dsns.retention, "--key", officer)
    more = ("--reason", "disk lost", "--anchors", anchors, "--log", LOG)
    done = await broker_audit(*argv, *more)
    assert done.exit_code == 0, done.output
    await log.owner.execute("SELECT audit.hold('demo', 'case 7', '2025-01-01+00', NULL)")
    await log.owner.execute("DELETE FROM leases")
    policy = Retention(keys=log.officers, kept_s=1)
    made = sealer(log.pool, log.key, retention_policy=policy, anchor_file=anchors)
    while await made.tick():
        pass


async def bundle_of(log: Log, *, first: int = 1) -> bytes:
    """The log as `broker audit export` writes it."""
    file = BytesIO()
    async with log.owner.transaction():
        await write_bundle(log.owner, file, "demo", first=first, last=EVERY)
    return file.getvalue()


def computed(bundle: bytes, path: list[Any]) -> dict[str, Any]:
    """Every hash of the page, by this release's code."""
    lines = list(parse(bundle.splitlines()))
    seals = [one for one in lines if isinstance(one, SealLine) and one.line == "seal"]
    members = [one for one in lines if isinstance(one, MemberLine)]
    events = [one.event for one in members if one.event is not None]
    return {
        "leaves": [leaf(one) for one in events],
        "seals": [sealed(one) for one in seals],
        "transactions": list(transactions(seals, members)),
        "keys": [key(one) for one in lines if isinstance(one, KeyLine)],
        "frontiers": list(frontiers([one.leaf for one in members])),
        "requests": [asked(one) for one in requests(seals, events)],
        "retired": [gone(one, members) for one in seals if one.request],
        "erasures": list(erased(events)),
        "inclusion": path,
    }


def leaf(fields_: EventFields) -> dict[str, Any]:
    one = audit.Event(**dict(fields_))
    return {
        "event": fields_.model_dump(mode="json"),
        "kind": audit.actor_kind(one.actor),
        "commitment": audit.commitment_of(one).hex(),
        "leaf": audit.leaf_of(one).hex(),
    }


def sealed(line: SealLine) -> dict[str, Any]:
    one = line.signed_seal().seal
    return {
        "seal": line.model_dump(mode="json"),
        "digest": one.digest.hex(),
        "attestation": seal.attestation_text(
            tenant_id=one.tenant_id, seal_no=one.seal_no, digest=one.digest
        ),
        "checkpoint": note.checkpoint_text(
            origin=note.origin_of_note(one.checkpoint), size=one.seq_to, root=one.root
        ),
    }


def transactions(seals: list[SealLine], members: list[MemberLine]) -> Iterator[dict[str, Any]]:
    """Of each seal that has them, where none of its events is gone."""
    for one in seals:
        its = [two.xid for two in members if one.seq_from <= two.seq <= one.seq_to]
        if one.transactions is not None and None not in its:
            xids = [xid for xid in its if xid is not None]
            yield {"xids": xids, "transactions": seal.transactions_digest(xids).hex()}


def key(line: KeyLine) -> dict[str, Any]:
    return {"public_key": line.public_key.hex(), "key_id": note.key_id_of(line.public_key)}


def frontiers(leaves: list[bytes]) -> Iterator[dict[str, Any]]:
    for size in range(len(leaves) + 1):
        tree = Tree().grown(leaves[:size])
        yield {
            "leaves": [one.hex() for one in leaves[:size]],
            "frontier": tree.packed.hex(),
            "root": tree.root.hex(),
        }


def requests(seals: list[SealLine], events: list[EventFields]) -> Iterator[str]:
    yield from (one.request for one in seals if one.request)
    for one in events:
        if one.type in {"person.erased", "log.restored", "retirement.asked"}:
            yield orjson.loads(one.body)["request"]


def asked(text: str) -> dict[str, Any]:
    found = parse_request(text)
    assert found is not None
    return {"note": text, "log": found.log, "kind": found.asked.kind, "id": str(found.asked.id)}


def gone(line: SealLine, members: list[MemberLine]) -> dict[str, Any]:
    chain = rulings.Chain()
    before = line.retired_before
    assert before is not None
    let = [one for one in members if one.occurred_at < before and one.seq <= line.seq_to]
    for one in let:
        chain.add(seq=one.seq, event_id=one.event_id, occurred_at=one.occurred_at)
    names = {"seq", "event_id", "occurred_at"}
    return {
        "members": [one.model_dump(mode="json", include=names) for one in let],
        "retired_digest": chain.digest.hex(),
    }


def erased(events: list[EventFields]) -> Iterator[dict[str, Any]]:
    """As the requests have them, which the database computed."""
    for one in events:
        if one.type == "person.erased":
            for month, said in orjson.loads(one.body)["months"].items():
                ids = [
                    str(two.event_id)
                    for two in events
                    if two.erased_by == one.event_id and f"{two.occurred_at:%Y%m}" == month
                ]
                yield {"month": month, "event_ids": ids, "digest": said["digest"]}


async def make(log: Log, folder: Path, scratch: Path) -> None:
    """Write the five files of a log."""
    await live(log)
    rows = await log.owner.fetch("SELECT payload FROM outbox WHERE kind = 'audit' ORDER BY id")
    anchors = folder / "anchors.ndjson"
    anchors.write_bytes(
        b"".join(orjson.dumps(orjson.loads(row["payload"])) + b"\n" for row in rows)
    )
    await restored(log, anchors, scratch / "officer.pem")
    mine = [line for line in anchors.read_bytes().splitlines(keepends=True) if b'"demo"' in line]
    anchors.write_bytes(b"".join(mine))
    bundle = await bundle_of(log)
    (folder / "bundle.ndjson").write_bytes(bundle)
    log.pem(folder / "seal.pub.pem")
    log.pem(folder / "officer.pub.pem", log.officer)
    proofs = await log.owner.fetch(
        "SELECT m.seq, p.size, p.leaf, p.path, p.root FROM audit.members m,"
        " audit.prove(m.event_id) p WHERE m.tenant_id = 'demo' ORDER BY m.seq"
    )
    path = [
        {
            **{name: plain(row[name]) for name in ("seq", "size", "leaf", "root")},
            "path": [one.hex() for one in row["path"]],
        }
        for row in proofs
    ]
    made = orjson.dumps(computed(bundle, path), option=orjson.OPT_INDENT_2)
    (folder / "vectors.json").write_bytes(made + b"\n")
