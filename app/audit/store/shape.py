"""The shape of schema audit: its tables, views, functions, triggers and grants, as they are now.

What computes and guards the log can be replaced by whoever owns it, so its shape is signed too:
by the relay, when it first meets it, if this release knows it. The statement is the database's own
`audit.shape()` (migration 0020) once more, since a function that is judged is not asked.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from app.audit import note
from app.postgres.statements import Connection

TAG: Final = "mcpbroker.audit.shape.v1"

KNOWN: Final[Mapping[int, frozenset[str]]] = {
    18: frozenset(
        {
            "d88f95839384f50d3bf001c886c4b9586a1f8ba877a927100aa0fe2cf6972220",
            # Restored from a dump: PostgreSQL then writes two functions in other words.
            "d6674a207a2292776ab874d14e5a698c7a3fe00ca4e152f89672df63e2ef41f7",
        }
    )
}
"""By major version of PostgreSQL, the digests of the shapes that this release's schema has."""

ACL: Final = "(SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest({acl}) AS a)"
COLUMNS: Final = """(
    SELECT string_agg(concat_ws(' ', t.attname, format_type(t.atttypid, t.atttypmod), t.attnotnull,
                                t.attidentity, t.attgenerated, pg_get_expr(d.adbin, d.adrelid),
                                {acl}), ',' ORDER BY t.attname)
      FROM pg_attribute t
      LEFT JOIN pg_attrdef d ON d.adrelid = t.attrelid AND d.adnum = t.attnum
     WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped)""".format(
    acl=ACL.format(acl="t.attacl")
)
CONSTRAINTS: Final = """(
    SELECT string_agg(concat_ws(' ', k.contype, pg_get_constraintdef(k.oid), k.convalidated), ','
                      ORDER BY k.contype, pg_get_constraintdef(k.oid))
      FROM pg_constraint k
     WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'c', 'f', 'x'))"""
TRIGGERS: Final = """(
    SELECT string_agg(concat_ws(' ', g.tgname, g.tgtype, g.tgfoid::regprocedure, g.tgenabled,
                                pg_get_expr(g.tgqual, g.tgrelid), encode(g.tgargs, 'hex')), ','
                      ORDER BY g.tgname)
      FROM pg_trigger g
     WHERE g.tgrelid = c.oid AND NOT g.tgisinternal)"""
RULES: Final = """(
    SELECT string_agg(pg_get_ruledef(r.oid), ',' ORDER BY r.rulename)
      FROM pg_rewrite r
     WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')"""
POLICIES: Final = """(
    SELECT string_agg(concat_ws(' ', p.polname, p.polcmd, p.polpermissive,
                                (SELECT string_agg(w.rolname, '+' ORDER BY w.rolname)
                                   FROM pg_roles w WHERE w.oid = ANY (p.polroles)),
                                pg_get_expr(p.polqual, p.polrelid),
                                pg_get_expr(p.polwithcheck, p.polrelid)), ',' ORDER BY p.polname)
      FROM pg_policy p
     WHERE p.polrelid = c.oid)"""
RELATION: Final = (
    "concat_ws('|', c.relkind, c.relpersistence, c.relowner::regrole, "
    + ACL.format(acl="c.relacl")
    + f", c.relrowsecurity, c.relforcerowsecurity, c.reloptions, {COLUMNS}, {CONSTRAINTS},"
    + f" {TRIGGERS}, {RULES}, {POLICIES})"
)
# A month's name and bounds are its own; all else must be as of every other month.
SHAPE: Final = f"""
    SELECT kind, name, encode(sha256(convert_to(said, 'UTF8')), 'hex') AS digest
      FROM (
        SELECT 'schema' AS kind, n.nspname::text AS name,
               concat_ws('|', n.nspowner::regrole, {ACL.format(acl="n.nspacl")}) AS said
          FROM pg_namespace n
         WHERE n.nspname = 'audit'
        UNION ALL
        SELECT CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END,
               c.oid::regclass::text, {RELATION} || coalesce(
                   CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END, '')
          FROM pg_class c
         WHERE c.relnamespace = 'audit'::regnamespace AND c.relkind NOT IN ('i', 'I', 'c', 't')
           AND NOT c.relispartition
        UNION ALL
        SELECT DISTINCT 'month', h.inhparent::regclass::text, concat_ws('#', {RELATION},
               c.relnamespace::regnamespace,
               CASE WHEN c.relname ~ '^events_[0-9]{{4}}(0[1-9]|1[0-2])$' THEN
                   pg_get_expr(c.relpartbound, c.oid) = format(
                       'FOR VALUES FROM (''%s'') TO (''%s'')',
                       to_date(right(c.relname, 6), 'YYYYMM')::timestamp AT TIME ZONE 'UTC',
                       (to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month')
                           AT TIME ZONE 'UTC')
               END)
          FROM pg_inherits h
          JOIN pg_class c ON c.oid = h.inhrelid
         WHERE h.inhparent IN (SELECT x.oid FROM pg_class x
                                WHERE x.relnamespace = 'audit'::regnamespace
                                  AND x.relkind IN ('r', 'p'))
        UNION ALL
        SELECT 'function', f.oid::regprocedure::text, concat_ws('|', f.prokind, f.prosecdef,
               f.proleakproof, f.provolatile, f.proisstrict, f.proparallel, f.proowner::regrole,
               {ACL.format(acl="f.proacl")}, f.proconfig, l.lanname,
               pg_get_function_arguments(f.oid),
               pg_get_function_result(f.oid), f.prosrc, pg_get_function_sqlbody(f.oid))
          FROM pg_proc f
          JOIN pg_language l ON l.oid = f.prolang
         WHERE f.pronamespace = 'audit'::regnamespace
        UNION ALL
        SELECT 'trigger', c.oid::regclass::text || '.' || g.tgname,
               concat_ws('|', g.tgtype, g.tgfoid::regprocedure, g.tgenabled,
                         pg_get_expr(g.tgqual, g.tgrelid), encode(g.tgargs, 'hex'))
          FROM pg_trigger g
          JOIN pg_class c ON c.oid = g.tgrelid
          JOIN pg_proc f ON f.oid = g.tgfoid
         WHERE f.pronamespace = 'audit'::regnamespace
           AND c.relnamespace <> 'audit'::regnamespace
        UNION ALL
        SELECT 'role', w.rolname::text, concat_ws('|', w.rolsuper, w.rolcreaterole,
               w.rolcreatedb, w.rolreplication, w.rolbypassrls)
          FROM pg_roles w
         WHERE w.rolname IN ('broker_owner', 'broker_app', 'broker_relay', 'broker_auditor',
                             'broker_retention')
      ) AS item
     ORDER BY kind COLLATE "C", name COLLATE "C", said COLLATE "C"
"""

SIGNED: Final = """
    SELECT major, revision, lines, note FROM audit.shapes ORDER BY shape_no DESC LIMIT 1
"""

ADD: Final = """
    INSERT INTO audit.shapes (major, revision, lines, note) VALUES ($1, $2, $3, $4)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the schema looks like: a line for each object, with a digest of all that it is."""

    major: int  # of PostgreSQL, whose versions print the same thing in different words
    revision: str
    lines: str

    @property
    def digest(self) -> bytes:
        """Over all of it."""
        return hashlib.sha256(self.lines.encode()).digest()

    @property
    def known(self) -> bool | None:
        """Whether this release's schema looks so; None where it has not been seen on this major."""
        digests = KNOWN.get(self.major)
        return None if digests is None else self.digest.hex() in digests

    def text(self, log: str) -> str:
        """What is signed."""
        digest = base64.b64encode(self.digest).decode()
        return f"{TAG}\n{log}\n{self.major} {self.revision}\n{digest}\n"

    def differs(self, other: "Shape") -> str:
        """The first object that is not the same in both."""
        mine, theirs = set(self.lines.split("\n")), set(other.lines.split("\n"))
        first = min(mine ^ theirs, default="")
        return " ".join(first.split(" ")[:-1]) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedShape:
    """A shape as a relay has signed it."""

    shape: Shape
    note: str

    def signers(self, keys: Mapping[str, bytes], *, log: str) -> frozenset[str]:
        """Which of these keys have signed it for this log."""
        if note.note_text(self.note) != self.shape.text(log):
            return frozenset()
        return note.signers_of(self.note, keys)


async def now(conn: Connection) -> Shape:
    """The shape as it is, in a transaction of the caller's: names are to be written out."""
    path = await conn.fetchval("SELECT current_setting('search_path')")
    await conn.execute("SELECT set_config('search_path', 'pg_catalog', true)")
    rows = await conn.fetch(SHAPE)
    await conn.execute("SELECT set_config('search_path', $1, true)", path)
    revision = await conn.fetchval("SELECT version_num FROM public.alembic_version")
    return Shape(
        major=conn.get_server_version().major,
        revision=revision or "",
        lines="\n".join(f"{row['kind']} {row['name']} {row['digest']}" for row in rows),
    )


async def signed(conn: Connection | asyncpg.Pool) -> SignedShape | None:
    """The newest that was signed."""
    row = await conn.fetchrow(SIGNED)
    if row is None:
        return None
    shape = Shape(major=row["major"], revision=row["revision"], lines=row["lines"])
    return SignedShape(shape=shape, note=row["note"])


async def add(conn: Connection | asyncpg.Pool, found: SignedShape) -> None:
    """Keep a shape that was signed."""
    shape = found.shape
    await conn.execute(ADD, shape.major, shape.revision, shape.lines, found.note)
