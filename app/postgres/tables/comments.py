"""What each table is, and each column that an auditor sees: as the migrations wrote it (0017)."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import MetaData

TABLES: Final[Mapping[str, str]] = {
    "public.tenants": "Tenants, with their limits: fair share, rate, window and queue.",
    "public.tenant_budgets": "Each rated tenant's token bucket, as the last lease left it.",
    "public.tools": "The catalog: what may be called, with its schemas and policy.",
    "public.targets": (
        "Where adapters work: addresses, bounds, and references to credentials, never a secret."
    ),
    "public.grants": "Who of a tenant may call what; a deny outweighs every allow.",
    "public.commands": "One row a call: what was asked, and where it stands.",
    "public.command_labels": (
        "The labels that callers gave to their commands, one a row, for the search by label."
    ),
    "public.ordering_heads": "One row an ordering key: the lock of the key, and who has it.",
    "public.outbox": "What is to be published to Kafka; deleted once Kafka has it.",
    "public.holds": ("What operators hold: calls that fit are accepted and wait, or are refused."),
    "public.progress": "Progress reports, numbered per command.",
    "public.turns": "Rows to lock, so that some work is done by one process at a time.",
    "public.leases": "Work that one relay does at a time; the epoch fences a predecessor.",
    "public.saga_definitions": (
        "Saga definitions; each registration is a version that never changes."
    ),
    "public.sagas": "Sagas: their plan, input and state.",
    "public.saga_steps": "Steps of sagas, with the commands that were written for each.",
    "public.console_sessions": "Who is signed in at the console, by the hash of a cookie; a day"
    " after the end a row goes.",
    "public.dpop_proofs": (
        "Proofs of possession (DPoP) that were taken, by a hash; each counts once, at any replica."
    ),
    "public.saga_turns": "Ticks: which saga has something to look at, and since when.",
    "public.webhook_endpoints": (
        "Who is told of what by webhook: operators' endpoints, and MCP clients' subscriptions."
    ),
    "public.webhook_deliveries": (
        "What an endpoint is to be told, and what it was told some days ago or less."
    ),
    "public.webhook_position": "Up to which transaction the audit trail was read for webhooks.",
    "audit.events": "The audit trail: what happened, written by the transaction that did it. Append"
    " only, for every role.",
    "audit.seals": "Signed tree heads: one a batch of events, each chained to the one before.",
    "audit.members": (
        "The leaves of each tenant's tree: the number and the hash of each sealed event."
    ),
    "audit.keys": "Public keys that sign seals.",
    "audit.auditors": "Which login role may read which tenant's trail.",
    "audit.holds": "Legal holds: what they cover is neither purged, retired nor erased.",
    "audit.retirements": "Requests to drop old events; the relay signs them before anything goes.",
    "audit.restores": (
        "Where a log goes on from an earlier state, and what that gives up; officers sign for it."
    ),
    "audit.shapes": "What schema audit looks like, as a relay has signed it.",
    "audit.watermark": (
        "How far the sealer has looked: a hint, rebuilt when lost, proof of nothing."
    ),
}

COLUMNS: Final[Mapping[str, str]] = {
    "asked_at": "When it was asked for.",
    "asked_by": "The login role that asked for it.",
    "attempt": "The attempt of the command, from 1.",
    "attestation": "A signed note over the digest.",
    "before": "Events older than this may be dropped.",
    "checkpoint": "A signed C2SP tlog-checkpoint of the whole log up to this seal.",
    "cluster": "The cluster that the transaction id belongs to.",
    "command_id": "The command (its correlation id), where there is one.",
    "commitment": "What the leaf keeps of the personal fields after an erasure; null before one.",
    "digest": "SHA-256 of the seal's other columns; the next seal contains it as previous.",
    "erased_by": "The event that records the erasure; null where nothing was erased.",
    "event_id": "The event.",
    "fingerprint": "SHA-256 of the canonical request.",
    "from_at": "The earliest time that the hold covers; null is from the beginning.",
    "frontier": "The tree's right edge, from which it grows.",
    "hold_id": "The hold.",
    "key_id": "The signing key: 16 hex digits of its SHA-256.",
    "kind": "events, or retirement: a seal over what may be dropped.",
    "leaf": "The event's leaf hash (RFC 6962), as it was sealed.",
    "method": "The method of the tool.",
    "occurred_at": "When it happened, by the database's clock.",
    "one_row": "Keeps the table to one row.",
    "placed_at": "When the hold was placed.",
    "placed_by": "The login role that placed the hold.",
    "previous": "The digest of the seal before.",
    "public_key": "The Ed25519 public key.",
    "reason": "Why, as it was given.",
    "released_at": "When the hold was released; null while it is in force.",
    "released_by": "The login role that released the hold.",
    "retired_before": "Events older than this may have been dropped; their leaves stay.",
    "retirement_id": "The request.",
    "role_name": "The login role.",
    "root": "The Merkle tree's root (RFC 6962) over leaves 1 to seq_to.",
    "saga_id": "The saga, where it belongs to one.",
    "salt": "Hides the personal fields in the leaf; null once erased.",
    "seal_no": "The seal's number in its tenant's log, from 1.",
    "sealed_at": "When the seal was made.",
    "seq": "The event's number in its tenant's log, dense, from 1.",
    "seq_from": "The first event of the batch.",
    "seq_to": "The last event of the batch, and the size of the tree.",
    "signed_at": "When the relay signed it; null until then.",
    "state_from": "The command's state before.",
    "state_to": "The command's state after.",
    "request": "The signed request of a retention officer that it rests on.",
    "retired_digest": "A hash over number, id and time of every event that may go.",
    "transactions": "A hash over the transaction of each event of the batch; null in older seals.",
    "refused_at": "When the relay refused it, if it did.",
    "refusal": "Why the relay refused it.",
    "major": "The major version of PostgreSQL that it was read from.",
    "revision": "The migration that the schema was at.",
    "lines": "A line for each object: its kind, its name, a hash of all that it is.",
    "note": "The signed note of a relay over the lines.",
    "shape_no": "The number of the shape.",
    "tenant_id": "The tenant; _broker is the broker itself.",
    "to_at": "The first time that the hold covers no more; null is for ever.",
    "tool": "The tool.",
    "type": "What happened, as noun.verb: command.accepted, saga.step, login.failed.",
    "user_id": "The user on whose behalf; null where it is nobody's, or was erased.",
    "accepted_at": "When it was handed in.",
    "accepted_by": "The login role that handed it in.",
    "restore_id": "The id of the request and of its event in the log.",
    "actor": "Who did it, as kind:name: user, client, adapter, relay, operator, db.",
    "body": "The rest, as JSON, by the type of event.",
    "xid": "The transaction that wrote the event.",
}

DIFFERENT: Final[Mapping[tuple[str, str], str]] = {
    ("audit.watermark", "xid"): "The transaction up to which every event is sealed.",
}
"""Where a column is something else than its name is elsewhere."""


def comment(metadata: MetaData) -> None:
    """Give every table its comment, and the audit schema's columns theirs.

    A missing one is found by the schema's tests, and stops no process.
    """
    for table in metadata.tables.values():
        name = table.fullname if table.schema else f"public.{table.name}"
        table.comment = TABLES.get(name)
        if table.schema == "audit":
            for column in table.columns:
                column.comment = DIFFERENT.get((name, column.name)) or COLUMNS.get(column.name)
