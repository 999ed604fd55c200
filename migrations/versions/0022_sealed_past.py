"""What is sealed after newer transactions is late, and no fault: a seal does not wait for ever."""

import importlib.util
from pathlib import Path
from typing import Any

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# (what 0019 says, what is said instead): within a seal the order stands, across seals an older
# transaction is one that was open while newer ones were sealed.
CHANGES = (
    ("earlier_id uuid;", "earlier_id uuid;\n        earlier_xid xid8;"),
    ("< (last_xid, earlier_at, earlier_id))", "< (earlier_xid, earlier_at, earlier_id))"),
    ("OR (earlier_id IS NULL AND m.xid < last_xid AND NOT moved)) THEN", ") THEN"),
    (
        "(s.sealed_at - m.occurred_at > interval '2 minutes')::int;",
        (
            "((s.sealed_at - m.occurred_at > interval '2 minutes') IS TRUE\n"
            "                            OR (m.xid < last_xid AND NOT moved) IS TRUE)::int;\n"
            "            last_xid := greatest(m.xid, last_xid);"
        ),
    ),
    ("last_xid := coalesce(m.xid, last_xid);", "earlier_xid := m.xid;"),
)


def older(name: str) -> Any:
    """An earlier migration, whose words are said again."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def member_fault() -> str:
    """As before, but an older transaction behind a newer seal is counted as late."""
    made: str = older("0019_total_verify").MEMBER_FAULT
    for before, after in CHANGES:
        assert before in made
        made = made.replace(before, after)
    return made.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


def upgrade() -> None:
    op.execute(member_fault())


def downgrade() -> None:
    before: str = older("0019_total_verify").MEMBER_FAULT
    op.execute(before.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
