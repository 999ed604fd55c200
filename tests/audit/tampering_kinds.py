"""Every way to change the log, by kind: what docs/AUDITORS.md has a row for.

Two logs are attacked: a young one (`tampering.py`), and one with a month that was retired, a person
who was erased and a legal hold (`AGED`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.audit.tampering import EVENT, EVENTS, MEMBERS
from tests.audit.tampering_seals import KEYS, SEALS
from tests.audit.test_shape import CHANGES

CASES: Final = {one.name: one.statements for one in [*EVENTS, *MEMBERS, *SEALS, *KEYS]}
NOT_NULL: Final = "ALTER TABLE audit.{0} ALTER {1} DROP NOT NULL"
DEMO: Final = "tenant_id = 'demo'"

Changes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of tampering, with all the changes of it that are tried."""

    title: str
    young: Changes
    aged: Changes


def named(*starts: str, without: str = "\0") -> Changes:
    """The cases whose names begin so."""
    return {
        name: made
        for name, made in CASES.items()
        if name.startswith(starts) and without not in name
    }


def shaped(*names: str) -> Changes:
    """Changes of the schema."""
    return {name: [CHANGES[name]] for name in names}


def null(table: str, column: str) -> list[str]:
    return [
        NOT_NULL.format(table, column),
        f"UPDATE audit.{table} SET {column} = NULL WHERE {DEMO}",
    ]


def seventh(change: str) -> list[str]:
    return [EVENT.format(change=change, seq=7)]


def twice(table: str, *constraints: str) -> list[str]:
    return [
        *(f"ALTER TABLE audit.{table} DROP CONSTRAINT {name}" for name in constraints),
        f"INSERT INTO audit.{table} SELECT * FROM audit.{table} WHERE {DEMO}",
    ]


ALIVE: Final = (
    "UPDATE audit.events SET {0} WHERE event_id = (SELECT event_id FROM audit.events"
    " WHERE tenant_id = 'demo' AND type = 'command.succeeded' AND salt IS NOT NULL LIMIT 1)"
)
BLANKED: Final = (
    "commitment = audit.personal_v1(salt, actor, user_id, fingerprint, body), user_id = NULL,"
    " fingerprint = NULL, body = '{{}}', salt = NULL, erased_by = {0}"
)
ERASED: Final = (
    "UPDATE audit.events SET {0} WHERE event_id = (SELECT event_id FROM audit.events"
    " WHERE tenant_id = 'demo' AND commitment IS NOT NULL LIMIT 1)"
)
RECORD: Final = "(SELECT event_id FROM audit.events WHERE type = 'person.erased' LIMIT 1)"
YOUNG_GONE: Final = (
    "DELETE FROM audit.events WHERE tenant_id = 'demo' AND type = 'command.succeeded'"
    " AND salt IS NOT NULL"
)
DATED_BACK: Final = (
    "UPDATE audit.members m SET occurred_at = '2020-03-15' WHERE tenant_id = 'demo'"
    " AND seq > 3 AND NOT EXISTS (SELECT FROM audit.events e WHERE e.event_id = m.event_id)"
)
LATER: Final = (
    "UPDATE audit.seals SET retired_before = '2030-01-01'"
    " WHERE tenant_id = 'demo' AND kind = 'retirement'"
)
RETIREMENT: Final = "WHERE tenant_id = 'demo' AND kind = 'retirement'"
DIGESTED: Final = f"UPDATE audit.seals s SET digest = audit.seal_digest(s) {RETIREMENT}"

KINDS: Final = (
    Kind(
        title="a column of an event altered",
        young=named("events.", without="xid"),
        aged={"redaction mark filled in": [ALIVE.format('body = \'{"args": {"p": "pw"}}\'')]},
    ),
    Kind(
        title="events deleted", young=named("event 1 d", "event 7", "event 9", "event 12"), aged={}
    ),
    Kind(title="events inserted", young=named("event inserted", "event and member ins"), aged={}),
    Kind(
        title="rows doubled",
        young={
            "event": twice("events", "pk_events"),
            "member": twice("members", "pk_members", "uq_members_event"),
            "seal": twice("seals", "pk_seals"),
            "key": [
                "ALTER TABLE audit.keys DROP CONSTRAINT pk_keys",
                "INSERT INTO audit.keys SELECT * FROM audit.keys",
            ],
        },
        aged={},
    ),
    Kind(
        title="order changed, members moved or deleted",
        young={
            **named("two ", "members of two", "member 1", "member 7", "member 9"),
            **named("members.", "event and leaf", "event and member d"),
        },
        aged={},
    ),
    Kind(
        title="tenants exchanged",
        young={
            **named("events.tenant", "member moved", "a seal of a log", "seal of another"),
            "all of two tenants": [
                (
                    "UPDATE audit.events SET tenant_id = CASE tenant_id WHEN 'demo' THEN 'other'"
                    " ELSE 'demo' END WHERE tenant_id IN ('demo', 'other')"
                )
            ],
        },
        aged={},
    ),
    Kind(
        title="NULL where a value was",
        young={
            "leaf": null("members", "leaf"),
            "attestation": null("seals", "attestation"),
            "checkpoint": null("seals", "checkpoint"),
            "size": null("seals", "seq_to"),
            "root": null("seals", "root"),
            "digest": null("seals", "digest"),
            "transaction": null("events", "xid"),
            "actor": null("events", "actor"),
            "details": null("events", "body"),
        },
        aged={},
    ),
    Kind(
        title="tables, columns, types, defaults, constraints",
        young=shaped(
            *("a constraint", "a check", "a null", "a default", "a type", "a column more"),
            *("a table", "a table that inherits", "an owner", "a rule"),
        ),
        aged={},
    ),
    Kind(
        title="views",
        young=shaped("a view", "a view's rights", "a view less"),
        aged={},
    ),
    Kind(
        title="functions",
        young=shaped("a function", "a function more", "a definer", "a function's grant"),
        aged={},
    ),
    Kind(
        title="triggers",
        young=shaped(
            *("a trigger off", "a month's trigger off", "a trigger elsewhere", "a trigger more"),
        ),
        aged={},
    ),
    Kind(
        title="grants, policies, roles",
        young=shaped(
            *("a grant", "a column's grant", "a policy", "row security off", "a role"),
        ),
        aged={},
    ),
    Kind(
        title="partitions",
        young=shaped("a month of no name", "a month unhung"),
        aged={},
    ),
    Kind(
        title="times",
        young={
            **named("events.occurred", "event inserted for next"),
            "a day back": seventh("occurred_at = occurred_at - interval '1 day'"),
            "a day ahead": seventh("occurred_at = occurred_at + interval '1 day'"),
            "of a seal": [f"UPDATE audit.seals SET sealed_at = sealed_at + '1 h' WHERE {DEMO}"],
        },
        aged={},
    ),
    Kind(
        title="transaction ids",
        young={
            **named("events.xid"),
            "of the event two behind": seventh(
                "xid = (SELECT xid FROM audit.events e JOIN audit.members m USING (event_id)"
                " WHERE m.tenant_id = 'demo' AND m.seq = 9)"
            ),
            "of the first": seventh("xid = '3'"),
            "of the event before": seventh(
                "xid = (SELECT xid FROM audit.events e JOIN audit.members m USING (event_id)"
                " WHERE m.tenant_id = 'demo' AND m.seq = 6)"
            ),
        },
        aged={},
    ),
    Kind(
        title="salts and commitments",
        young={
            "another salt": seventh("salt = sha256('x')"),
            "no salt": seventh("salt = NULL"),
            "a commitment beside the salt": seventh("commitment = sha256('x')"),
        },
        aged={"another commitment": [ERASED.format("commitment = sha256('x')")]},
    ),
    Kind(title="seals altered", young=named("seals.", without="attestation"), aged={}),
    Kind(
        title="seals deleted, exchanged",
        young=named("seal 1", "seal 2", "seal 3", "two seals"),
        aged={},
    ),
    Kind(title="keys", young=named("key"), aged={}),
    Kind(
        title="attestations",
        young={
            **named("seals.attestation"),
            "of a stranger": [
                (
                    "UPDATE audit.seals SET attestation = regexp_replace(attestation,"
                    f" '[A-Za-z0-9+/]{{20}}=*\n$', E'AAAAAAAAAAAAAAAAAAAA\\n') WHERE {DEMO}"
                )
            ],
        },
        aged={},
    ),
    Kind(
        title="retirements",
        young={
            "a row, and events deleted": [
                (
                    "INSERT INTO audit.retirements (before, reason, asked_by, signed_at)"
                    " VALUES (now(), 'x', 'x', now())"
                ),
                f"DELETE FROM audit.events WHERE {DEMO}",
            ],
        },
        aged={
            "young events deleted": [YOUNG_GONE],
            "young events deleted, members dated back": [YOUNG_GONE, DATED_BACK],
            "its date later": [LATER, YOUNG_GONE],
            "its date later, its digest with it": [LATER, DIGESTED, YOUNG_GONE],
            "without its request": [
                f"UPDATE audit.seals SET request = NULL, retired_digest = NULL {RETIREMENT}"
            ],
            "its seal deleted": [f"DELETE FROM audit.seals {RETIREMENT}"],
            "its request's event deleted": [
                f"DELETE FROM audit.events WHERE {DEMO} AND type = 'retirement.asked'"
            ],
        },
    ),
    Kind(
        title="erasures",
        young={"named where there was none": seventh("erased_by = event_id")},
        aged={
            "without a request": [ALIVE.format(BLANKED.format("gen_random_uuid()"))],
            "beside another's request": [ALIVE.format(BLANKED.format(RECORD))],
            "filled in again": [ERASED.format("user_id = 'eve'")],
            "its details filled in again": [ERASED.format("body = '{\"x\": 1}'")],
            "without its mark": [ERASED.format("erased_by = NULL")],
            "under another mark": [ERASED.format("erased_by = gen_random_uuid()")],
            "its record deleted": [f"DELETE FROM audit.events WHERE event_id = {RECORD}"],
        },
    ),
    Kind(
        title="legal holds",
        young={},
        aged={
            "row deleted": ["DELETE FROM audit.holds"],
            "row released": ["UPDATE audit.holds SET released_at = now(), released_by = 'x'"],
            "row narrowed": ["UPDATE audit.holds SET from_at = now()"],
            "event deleted": ["DELETE FROM audit.events WHERE type = 'hold.placed'"],
        },
    ),
    Kind(
        title="tables truncated",
        young={
            **named("events trunc", "members trunc", "seals trunc", "keys trunc"),
            "all four": ["TRUNCATE audit.events, audit.members, audit.seals, audit.keys"],
        },
        aged={},
    ),
    Kind(
        title="rolled back whole",
        young={
            "to an earlier seal": [
                (
                    "DELETE FROM audit.events WHERE event_id IN (SELECT event_id FROM audit.members"
                    f" WHERE {DEMO} AND seq > 9)"
                ),
                f"DELETE FROM audit.members WHERE {DEMO} AND seq > 9",
                f"DELETE FROM audit.seals WHERE {DEMO} AND seal_no = 3",
            ]
        },
        aged={},
    ),
)

SHAPE_SIGNED: Final = {
    "the signed shape rewritten to fit": [
        "CREATE FUNCTION audit.x() RETURNS int LANGUAGE sql RETURN 1",
        (
            "UPDATE audit.shapes SET lines = (SELECT string_agg(concat_ws(' ', kind, name, digest),"
            " chr(10) ORDER BY n) FROM audit.shape() WITH ORDINALITY AS s (kind, name, digest, n))"
        ),
    ],
    "audit.verify made to say yes": [
        (
            "CREATE OR REPLACE FUNCTION audit.verify(tenant text, from_seq bigint DEFAULT 1,"
            " to_seq bigint DEFAULT NULL, waited interval DEFAULT '10 minutes')"
            " RETURNS TABLE (ok boolean, seq bigint, event_id uuid, seal_no bigint, reason text,"
            " events bigint, seals bigint, size bigint, root bytea, retired bigint, late bigint,"
            " unsealed bigint, unsealed_from timestamptz, beyond text[]) LANGUAGE sql STABLE AS"
            " $$ SELECT true, NULL::bigint, NULL::uuid, NULL::bigint, NULL, 12::bigint, 3::bigint,"
            " 12::bigint, ''::bytea, 0::bigint, 0::bigint, 0::bigint, NULL::timestamptz,"
            " '{}'::text[] $$"
        ),
        *seventh("actor = 'user:eve'"),
    ],
}
"""What judges, changed: found by whoever does not ask it."""
