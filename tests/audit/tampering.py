"""Every way to change the log that we could think of, and where verify has to point.

`demo` has events 1-5 in seal 1, 6-9 in seal 2 and 10-12 in seal 3.
"""

from dataclasses import dataclass

import asyncpg

TABLES = """
    SELECT c.oid::regclass::text
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = 'audit' AND c.relkind IN ('r', 'p') AND c.relname <> 'watermark'
     ORDER BY c.relkind
"""

ALWAYS = """
    SELECT t.tgrelid::regclass::text, t.tgname
      FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
     WHERE c.relnamespace = 'audit'::regnamespace AND NOT t.tgisinternal
"""

EVENT = """
    UPDATE audit.events SET {change} WHERE (tenant_id, event_id) =
        (SELECT tenant_id, event_id FROM audit.members WHERE tenant_id = 'demo' AND seq = {seq})
"""
GONE = """
    DELETE FROM audit.events WHERE event_id IN
        (SELECT event_id FROM audit.members WHERE tenant_id = 'demo' AND seq {seqs})
"""
SEAL = "UPDATE audit.seals SET {change} WHERE tenant_id = 'demo' AND seal_no = {no}"
RESEAL = """
    UPDATE audit.seals s SET digest = audit.seal_digest(s)
     WHERE tenant_id = 'demo' AND seal_no = {no}
"""
MEMBER = "UPDATE audit.members SET {change} WHERE tenant_id = 'demo' AND seq {seqs}"
INSERT = """
    INSERT INTO audit.events (tenant_id, type, actor, xid, occurred_at)
    SELECT tenant_id, 'forged', 'x', xid, occurred_at + interval '1 microsecond'
      FROM audit.events WHERE event_id =
        (SELECT event_id FROM audit.members WHERE tenant_id = 'demo' AND seq = {seq})
"""
JOIN = """
    INSERT INTO audit.members (tenant_id, seq, event_id, occurred_at, leaf)
    SELECT 'demo', {seq}, event_id, occurred_at, audit.leaf(e)
      FROM audit.events e
     WHERE type = 'forged'
"""
FORGED = "(SELECT event_id FROM audit.events WHERE type = 'forged')"


def swap(one: int, two: int) -> list[str]:
    return [
        MEMBER.format(change=f"seq = -{one}", seqs=f"= {one}"),
        MEMBER.format(change=f"seq = {one}", seqs=f"= {two}"),
        MEMBER.format(change=f"seq = {two}", seqs=f"= -{one}"),
    ]


def move_up(first: int) -> list[str]:
    """Make room before a member."""
    return [
        MEMBER.format(change="seq = -seq", seqs=f">= {first}"),
        MEMBER.format(change="seq = 1 - seq", seqs="< 0"),
    ]


def move_down(first: int) -> list[str]:
    """Close a gap before a member."""
    return [
        MEMBER.format(change="seq = -seq", seqs=f">= {first}"),
        MEMBER.format(change="seq = -seq - 1", seqs="< 0"),
    ]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A change, and where verify has to point."""

    name: str
    statements: list[str]
    seq: int | None
    reason: str
    event: str | None = None  # SQL; the event that is at `seq` before the change, if not given
    seal_no: int | None = None
    in_sql: bool = True
    outside: int | None = None  # where the check outside the database points, if elsewhere
    in_python: bool = True


COLUMNS = {
    "event_id": "gen_random_uuid()",
    "occurred_at": "occurred_at + interval '1 microsecond'",
    "tenant_id": "'other'",
    "type": "'command.failed'",
    "actor": "'user:eve'",
    "user_id": "NULL",
    "command_id": "gen_random_uuid()",
    "saga_id": "NULL",
    "tool": "'rm'",
    "method": "''",
    "attempt": "attempt + 1",
    "state_from": "'queued'",
    "state_to": "NULL",
    "fingerprint": "sha256('y')",
    "body": "'{ }'",
}
MOVED = {"event_id", "occurred_at", "tenant_id"}

EVENTS = [
    *(
        Case(
            name=f"events.{column} altered",
            statements=[EVENT.format(change=f"{column} = {value}", seq=7)],
            seq=7,
            reason="event is gone" if column in MOVED else "event was altered",
        )
        for column, value in COLUMNS.items()
    ),
    Case(
        name="events.xid moved behind the next",
        statements=[EVENT.format(change="xid = '999999999'", seq=7)],
        seq=7,
        reason="yet to come",
        in_python=False,  # found at the end of its seal
    ),
    Case(
        name="events.xid of the event before",
        statements=[
            EVENT.format(
                change="xid = (SELECT b.xid FROM audit.events b JOIN audit.members n"
                " ON n.event_id = b.event_id WHERE n.tenant_id = 'demo' AND n.seq = 6)",
                seq=7,
            )
        ],
        seq=6,
        reason="bears another transaction: one of 6 to ",
    ),
    *(
        Case(
            name=f"event {seq} deleted",
            statements=[GONE.format(seqs=f"= {seq}")],
            seq=seq,
            reason="event is gone",
        )
        for seq in (1, 7, 9, 12)
    ),
    Case(
        name="events truncated",
        statements=["TRUNCATE audit.events"],
        seq=1,
        reason="event is gone",
    ),
    Case(
        name="two events exchanged",
        statements=[
            (
                "UPDATE audit.events e SET actor = o.actor, command_id = o.command_id"
                " FROM audit.events o JOIN audit.members om USING (event_id), audit.members em"
                " WHERE em.event_id = e.event_id"
                " AND em.tenant_id = 'demo' AND om.tenant_id = 'demo'"
                " AND (em.seq, om.seq) IN ((7, 11), (11, 7))"
            )
        ],
        seq=7,
        reason="event was altered",
    ),
    Case(
        name="event inserted into the past",
        statements=[INSERT.format(seq=7)],
        seq=None,
        event=FORGED,
        reason="inserted behind the sealer",
        in_python=False,
    ),
    Case(
        name="event inserted under a transaction that is yet to come",
        statements=[
            INSERT.format(seq=7),
            "UPDATE audit.events SET xid = '999999999' WHERE type = 'forged'",
        ],
        seq=None,
        event=FORGED,
        reason="is not sealed",
        in_python=False,
    ),
    Case(
        name="event inserted for next month",
        statements=[
            INSERT.format(seq=7),
            (
                "UPDATE audit.events"
                " SET xid = '999999999', occurred_at = now() + interval '1 month'"
                " WHERE type = 'forged'"
            ),
        ],
        seq=None,
        event=FORGED,
        reason="is not sealed",
        in_python=False,
    ),
    Case(
        name="event inserted twice under one id",
        statements=[
            (
                "INSERT INTO audit.events (event_id, tenant_id, type, actor, xid)"
                " SELECT event_id, 'demo', 'forged', 'x', '1' FROM audit.members"
                " WHERE tenant_id = 'demo' AND seq = 7"
            )
        ],
        seq=None,
        event=FORGED,
        reason="inserted behind the sealer",
        in_python=False,
    ),
]

MEMBERS = [
    Case(
        name="members.leaf altered",
        statements=[MEMBER.format(change="leaf = sha256('x')", seqs="= 7")],
        seq=7,
        reason="event was altered",
    ),
    Case(
        name="event and leaf altered together",
        statements=[
            EVENT.format(change="actor = 'user:eve'", seq=7),
            (
                "UPDATE audit.members m SET leaf = audit.leaf(e) FROM audit.events e"
                " WHERE e.event_id = m.event_id"
            ),
        ],
        seq=6,
        reason="one of 6 to 9",
        seal_no=2,
    ),
    *(
        Case(
            name=f"members.{column} altered",
            statements=[MEMBER.format(change=f"{column} = {value}", seqs="= 7")],
            seq=7,
            event=f"(SELECT event_id FROM audit.members WHERE tenant_id = 'demo' AND seq = {seq})",
            reason="event is gone",
        )
        for column, value, seq in (
            ("event_id", "gen_random_uuid()", 7),
            ("occurred_at", "occurred_at + interval '1 hour'", 7),
        )
    ),
    Case(
        name="member moved to another tenant",
        statements=[MEMBER.format(change="tenant_id = 'other', seq = 99", seqs="= 7")],
        seq=7,
        reason="member was deleted",
    ),
    Case(
        name="two members exchanged",
        statements=swap(7, 8),
        seq=7,
        event="(SELECT event_id FROM audit.members WHERE tenant_id = 'demo' AND seq = 7)",
        reason="reordered",
        outside=6,
    ),
    Case(
        name="members of two seals exchanged",
        statements=swap(9, 11),
        seq=6,
        reason="one of 6 to 9",
        seal_no=2,
    ),
    *(
        Case(
            name=f"member {seq} deleted",
            statements=[f"DELETE FROM audit.members WHERE tenant_id = 'demo' AND seq = {seq}"],
            seq=seq,
            reason="member was deleted",
        )
        for seq in (1, 7, 9, 12)
    ),
    Case(
        name="event and member deleted, and the gap closed",
        statements=[
            GONE.format(seqs="= 7"),
            "DELETE FROM audit.members WHERE tenant_id = 'demo' AND seq = 7",
            *move_down(8),
        ],
        seq=6,
        reason="one of 6 to 9",
        seal_no=2,
    ),
    Case(
        name="event and member inserted between two",
        statements=[INSERT.format(seq=7), *move_up(8), JOIN.format(seq=8)],
        seq=6,
        reason="one of 6 to 9",
        seal_no=2,
    ),
    Case(
        name="event and member inserted at the end",
        statements=[INSERT.format(seq=7), JOIN.format(seq=13)],
        seq=13,
        event=FORGED,
        reason="member has no seal",
    ),
    Case(
        name="members truncated",
        statements=["TRUNCATE audit.members"],
        seq=1,
        reason="member was deleted",
    ),
]


async def tamper(conn: asyncpg.Connection, statements: list[str]) -> None:
    for row in await conn.fetch(TABLES):
        await conn.execute(f"ALTER TABLE {row[0]} DISABLE TRIGGER ALL")
    for statement in statements:
        await conn.execute(statement)
    for row in await conn.fetch(TABLES):  # and nobody is to see that they were off
        await conn.execute(f"ALTER TABLE {row[0]} ENABLE TRIGGER ALL")
    for row in await conn.fetch(ALWAYS):
        await conn.execute(f"ALTER TABLE {row[0]} ENABLE ALWAYS TRIGGER {row[1]}")
