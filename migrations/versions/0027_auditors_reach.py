"""What a login that may only read can hold up is nothing of ours; steps in time are shown."""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# Everybody may take any advisory lock, and hold it. A row of this table is locked by those only
# who may update it.
TURNS = """
    CREATE TABLE turns (name text CONSTRAINT pk_turns PRIMARY KEY, held boolean);
    INSERT INTO turns (name)
    VALUES ('dispatch'), ('saga definitions'), ('audit.ensure_partitions'), ('audit.retention');
    COMMENT ON TABLE turns IS
        'Rows to lock, so that some work is done by one process at a time.';
    GRANT SELECT, UPDATE (held) ON turns TO broker_app, broker_relay
"""

ADVISORY = "pg_advisory_xact_lock(hashtext('{0}'))"
ROW = "FROM public.turns t WHERE t.name = '{0}' FOR UPDATE"
NAMES = ("audit.ensure_partitions", "audit.retention")

# In every function of the audit schema: its owner, its rights and all else stay as they are.
REPLACE = """
    DO $outer$
    DECLARE
        f oid;
    BEGIN
        FOR f IN SELECT p.oid FROM pg_proc p
                  WHERE p.pronamespace = 'audit'::regnamespace AND strpos(p.prosrc, $q${0}$q$) > 0
        LOOP
            EXECUTE replace(pg_get_functiondef(f), $q${0}$q$, $q${1}$q$);
        END LOOP;
    END $outer$
"""

# PARTITION OF locks out every reader and writer of all events, and waits for the readers that there
# are: one forgotten transaction would hold up every write. ATTACH waits for nobody who reads.
MADE = """                EXECUTE format(
                    'CREATE TABLE audit.%I PARTITION OF audit.events FOR VALUES FROM (%L) TO (%L)',
"""
ATTACHED = """                EXECUTE format(
                    'CREATE TABLE audit.%I (LIKE audit.events INCLUDING DEFAULTS'
                    ' INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE)', name);
                EXECUTE format(
                    'ALTER TABLE audit.events ATTACH PARTITION audit.%I'
                    ' FOR VALUES FROM (%L) TO (%L)',
"""
# A drop has to lock them out; it gives up at once where somebody reads.
DROP = """        EXECUTE format('DROP TABLE audit.%I', partition);"""
BRIEFLY = """        PERFORM set_config('lock_timeout', '300ms', true);
        EXECUTE format('DROP TABLE audit.%I', partition);
        PERFORM set_config('lock_timeout', '3s', true);"""

# What is sealed behind a retirement is not in its digest, so it may not go by it, however old it is.
GONE = "WHEN NOT m.there AND (m.occurred_at < granted.retired_before) IS NOT TRUE"
COVERED = """WHEN NOT m.there AND (m.occurred_at < granted.retired_before
                                      AND m.seq <= granted.seq_to) IS NOT TRUE"""
SEALED = "SELECT e.tenant_id, count(*) AS events, count(m.event_id) AS sealed\n"
LAST = "SELECT e.tenant_id, count(*) AS events, count(m.event_id) AS sealed, max(m.seq) AS last\n"
SAID = "AND s.retired_before >= upto AND s.digest = audit.seal_digest(s)"
SAID_BEHIND = """AND s.retired_before >= upto AND s.seq_to >= found.last
               AND s.digest = audit.seal_digest(s)"""

# Members stand in the order of their transactions, so the time before is that of an older one.
OUT_OF_TIME = """
    CREATE VIEW audit.out_of_time WITH (security_invoker) AS
    SELECT m.tenant_id, m.seq, m.event_id, m.occurred_at AS at, e.event_id AS earlier_id,
           e.occurred_at AS earlier_at, e.occurred_at - m.occurred_at AS back_by
      FROM audit.members m
      JOIN audit.members e ON e.tenant_id = m.tenant_id AND e.seq = m.seq - 1
     WHERE m.occurred_at < e.occurred_at - interval '1 minute'
"""
COMMENTS = {
    "": "Neighbours in the log of which the later one bears a time over a minute older: the time of"
    " one of the two may be false.",
    "tenant_id": "The tenant; _broker is the broker itself.",
    "seq": "The number of the later one, dense, from 1.",
    "event_id": "The event.",
    "at": "The time that it bears.",
    "earlier_id": "The event before it.",
    "earlier_at": "The time that the event before it bears.",
    "back_by": "How far the time steps back.",
}

BEYOND = """            CASE WHEN unsealed > 0 THEN"""
STEPS = (
    """            CASE WHEN EXISTS (SELECT FROM audit.out_of_time o WHERE o.tenant_id = tenant
                                 AND o.seq >= from_seq AND o.seq <= size) THEN
                'which of two neighbours bears a false time: see audit.out_of_time' END,
"""
    + BEYOND
)
CHANGED = ((DROP, BRIEFLY), (GONE, COVERED), (SEALED, LAST), (SAID, SAID_BEHIND))


def upgrade() -> None:
    for statement in filter(None, map(str.strip, TURNS.split(";\n"))):
        op.execute(statement)
    for name in NAMES:
        op.execute(REPLACE.format(ADVISORY.format(name), ROW.format(name)))
    op.execute(REPLACE.format(MADE, ATTACHED))
    for before, after in CHANGED:
        op.execute(REPLACE.format(before, after))
    op.execute(OUT_OF_TIME)
    op.execute("GRANT SELECT ON audit.out_of_time TO broker_auditor")
    for column, said in COMMENTS.items():
        what = f"COLUMN audit.out_of_time.{column}" if column else "VIEW audit.out_of_time"
        op.execute(f"COMMENT ON {what} IS '{said}'")
    op.execute(REPLACE.format(BEYOND, STEPS))


def downgrade() -> None:
    op.execute(REPLACE.format(STEPS, BEYOND))
    op.execute("DROP VIEW audit.out_of_time")
    for before, after in CHANGED:
        op.execute(REPLACE.format(after, before))
    op.execute(REPLACE.format(ATTACHED, MADE))
    for name in NAMES:
        op.execute(REPLACE.format(ROW.format(name), ADVISORY.format(name)))
    op.execute("DROP TABLE turns")
