"""Which commands a hold is of, in SQL: the one condition, wherever it is asked."""

from typing import Final

# Of a hold `h` and a command `c`. The claim has it too (dispatch_claim.sql); a test compares them.
MATCH: Final = """
    h.tenant_id = c.tenant_id
    AND (h.tool IS NULL OR h.tool = c.tool)
    AND (h.method IS NULL OR h.method = c.method)
    AND (h.ordering_key IS NULL OR h.ordering_key = c.ordering_key)
    AND (h.args_path IS NULL OR c.args #> h.args_path = h.args_value)
"""

# What is shown of the hold by which a command `c` waits, the oldest. Asked of queued commands only,
# so every other read of a command costs nothing more, and these one probe of an index.
SHOWN: Final = f"""
    CASE WHEN c.state = 'queued' AND c.saga_role IS DISTINCT FROM 'saga' THEN (
        SELECT jsonb_build_object(
                   'hold_id', h.id, 'reason', h.reason,
                   'until', h.until)
          FROM holds h
         WHERE h.released_at IS NULL AND {MATCH}
         ORDER BY h.id
         LIMIT 1)
    END
"""
