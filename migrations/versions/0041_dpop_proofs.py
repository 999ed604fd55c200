"""Which DPoP proofs were taken, for every replica.

Unlogged: a proof is of use for two minutes at the most, and a crash of the server costs no more
than that each of those could be shown once more.
"""

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

UP = """
    CREATE UNLOGGED TABLE dpop_proofs (
        digest bytea CONSTRAINT pk_dpop_proofs PRIMARY KEY,
        kept_until timestamptz NOT NULL);
    CREATE INDEX ix_dpop_proofs_kept_until ON ONLY dpop_proofs (kept_until);
    COMMENT ON TABLE dpop_proofs IS
        'Proofs of possession (DPoP) that were taken, by a hash; each counts once, at any replica.';
    GRANT SELECT, INSERT, DELETE ON dpop_proofs TO broker_app
"""


def upgrade() -> None:
    for statement in filter(None, map(str.strip, UP.split(";\n"))):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE dpop_proofs")
