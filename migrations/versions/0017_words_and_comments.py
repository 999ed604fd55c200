"""Reports that were rejected are counted by that name; the schema says what it is."""

from collections.abc import Iterator, Mapping
from typing import Final

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# An app of the release before answers a rejected report with 500 in place of 409 from here until
# it is replaced; it changes nothing, and adapters report again.
RENAME: Final = "ALTER TABLE commands RENAME COLUMN words_refused TO reports_rejected"
RENAME_BACK: Final = "ALTER TABLE commands RENAME COLUMN reports_rejected TO words_refused"

TABLES: Final[Mapping[str, str]] = {
    "public.tenants": "Tenants, with their limits: fair share, rate, window and queue.",
    "public.tenant_budgets": "Each rated tenant's token bucket, as the last lease left it.",
    "public.tools": "The catalog: what may be called, with its schemas and policy.",
    "public.grants": "Who of a tenant may call what; a deny outweighs every allow.",
    "public.commands": "One row a call: what was asked, and where it stands.",
    "public.ordering_heads": "One row an ordering key: the lock of the key, and who has it.",
    "public.outbox": "What is to be published to Kafka; deleted once Kafka has it.",
    "public.progress": "Progress reports, numbered per command.",
    "public.leases": "Work that one relay does at a time; the epoch fences a predecessor.",
    "public.saga_definitions": "Saga definitions; each registration is a version that never changes.",
    "public.sagas": "Sagas: their plan, input and state.",
    "public.saga_steps": "Steps of sagas, with the commands that were written for each.",
    "public.saga_turns": "Ticks: which saga has something to look at, and since when.",
    "audit.events": "The audit trail: what happened, written by the transaction that did it. Append"
    " only, for every role.",
    "audit.seals": "Signed tree heads: one a batch of events, each chained to the one before.",
    "audit.members": "The leaves of each tenant's tree: the number and the hash of each sealed event.",
    "audit.keys": "Public keys that sign seals.",
    "audit.auditors": "Which login role may read which tenant's trail.",
    "audit.holds": "Legal holds: what they cover is neither purged, retired nor erased.",
    "audit.retirements": "Requests to drop old events; the relay signs them before anything goes.",
    "audit.watermark": "How far the sealer has looked: a hint, rebuilt when lost, proof of nothing.",
}

VIEWS: Final[Mapping[str, str]] = {
    "audit.who_did_what": "Every event, in plain words: who did what, on whose behalf, and the outcome.",
    "audit.command_story": "The events of each command, numbered, from its acceptance to its end.",
    "audit.saga_story": "The events of each saga and of its steps' commands, numbered.",
    "audit.agent_activity": "One row an accepted call: which agent asked for what, and how it ended.",
    "audit.denials": "What was refused: calls, logins and reports, with the reason.",
    "audit.sealing": "Each tenant's newest seal: how much is sealed, when, and by which key.",
    "audit.sealed_late": "Events that were sealed more than an hour after they had happened.",
}

# What a column is wherever an auditor meets its name; below, where it is something else.
COLUMNS: Final[Mapping[str, str]] = {
    "added_at": "When the key was first used here.",
    "agent": "The user on whose behalf the call was made; null once erased.",
    "args": "The call's arguments, with what the tool's schema marks as sensitive redacted.",
    "asked_at": "When it was asked for.",
    "asked_by": "The login role that asked for it.",
    "at": "When it happened, by the database's clock.",
    "attempt": "The attempt of the command, from 1.",
    "attempts": "The attempt with which it ended.",
    "attestation": "A signed note over the digest.",
    "before": "Events older than this may be dropped.",
    "checkpoint": "A signed C2SP tlog-checkpoint of the whole log up to this seal.",
    "cluster": "The cluster that the transaction id belongs to.",
    "command_id": "The command (its correlation id), where there is one.",
    "commitment": "What the leaf keeps of the personal fields after an erasure; null before one.",
    "details": "The rest, as JSON, by the type of event.",
    "digest": "SHA-256 of the seal's other columns; the next seal contains it as previous.",
    "ended_at": "When it ended; null while it is open.",
    "erased_by": "The event that records the erasure; null where nothing was erased.",
    "event_id": "The event.",
    "events_sealed": "How many events of the tenant are sealed.",
    "fingerprint": "SHA-256 of the canonical request.",
    "from_at": "The earliest time that the hold covers; null is from the beginning.",
    "frontier": "The tree's right edge, from which it grows.",
    "hold_id": "The hold.",
    "key_id": "The signing key: 16 hex digits of its SHA-256.",
    "kind": "events, or retirement: a seal over what may be dropped.",
    "late_by": "How long it waited for its seal.",
    "leaf": "The event's leaf hash (RFC 6962), as it was sealed.",
    "method": "The method of the tool.",
    "occurred_at": "When it happened, by the database's clock.",
    "on_behalf_of": "The user on whose behalf; null where it is nobody's, or was erased.",
    "one_row": "Keeps the table to one row.",
    "outcome": "The command's state after the event; null where it did not move.",
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
    "since_start": "How long after the first event of the story.",
    "state_from": "The command's state before.",
    "state_to": "The command's state after.",
    "step": "The event's number in the story, from 1.",
    "tenant_id": "The tenant; _broker is the broker itself.",
    "to_at": "The first time that the hold covers no more; null is for ever.",
    "tool": "The tool.",
    "type": "What happened, as noun.verb: command.accepted, saga.step, login.failed.",
    "user_id": "The user on whose behalf; null where it is nobody's, or was erased.",
    "what": "What happened, as noun.verb: command.accepted, saga.step, login.failed.",
    "who": "Who did it, as kind:name: user, client, adapter, relay, operator, db.",
    "actor": "Who did it, as kind:name: user, client, adapter, relay, operator, db.",
    "body": "The rest, as JSON, by the type of event.",
    "xid": "The transaction that wrote the event.",
}

DIFFERENT: Final[Mapping[tuple[str, str], str]] = {
    ("audit.watermark", "xid"): "The transaction up to which every event is sealed.",
    ("audit.agent_activity", "outcome"): "The state in which it ended; open until then.",
    (
        "audit.sealing",
        "retired_before",
    ): "Events older than this may have been dropped, by any seal.",
}

UNCOMMENTED: Final = """
    DO $$
    DECLARE one record;
    BEGIN
        FOR one IN
            SELECT c.relname, a.attname
              FROM pg_class c
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.relnamespace = 'audit'::regnamespace AND c.relkind IN ('r', 'p', 'v')
               AND NOT c.relispartition
        LOOP
            EXECUTE format('COMMENT ON COLUMN audit.%I.%I IS NULL', one.relname, one.attname);
        END LOOP;
    END $$
"""

NAMES: Final = """
    SELECT 'audit.' || c.relname, a.attname
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relnamespace = 'audit'::regnamespace AND c.relkind IN ('r', 'p', 'v')
       AND NOT c.relispartition
     ORDER BY 1, a.attnum
"""


def comments() -> Iterator[str]:
    for name, text in TABLES.items():
        yield f"COMMENT ON TABLE {name} IS {quoted(text)}"
    for name, text in VIEWS.items():
        yield f"COMMENT ON VIEW {name} IS {quoted(text)}"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def upgrade() -> None:
    op.execute(RENAME)
    for statement in comments():
        op.execute(statement)
    for relation, column in op.get_bind().exec_driver_sql(NAMES).all():
        text = DIFFERENT.get((relation, column)) or COLUMNS.get(column)
        if text is not None:
            op.execute(f'COMMENT ON COLUMN {relation}."{column}" IS {quoted(text)}')


def downgrade() -> None:
    op.execute(UNCOMMENTED)
    for name in TABLES:
        op.execute(f"COMMENT ON TABLE {name} IS NULL")
    for name in VIEWS:
        op.execute(f"COMMENT ON VIEW {name} IS NULL")
    op.execute(RENAME_BACK)
