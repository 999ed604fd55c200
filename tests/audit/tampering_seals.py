"""Ways to change seals and keys."""

from tests.audit.tampering import RESEAL, SEAL, Case

SEALS = [
    *(
        Case(
            name=f"seals.{column} altered",
            statements=[SEAL.format(change=f"{column} = {value}", no=2)],
            seq=6,
            seal_no=2,
            reason="seal was altered",
        )
        for column, value in (
            ("seq_from", "seq_from + 1"),
            ("seq_to", "seq_to + 1"),
            ("root", "sha256('x')"),
            ("frontier", "sha256('x')"),
            ("previous", "sha256('x')"),
            ("key_id", "'0000000000000000'"),
            ("sealed_at", "sealed_at - interval '1 day'"),
            ("checkpoint", "replace(checkpoint, 'broker', 'brocker')"),
            ("digest", "sha256('x')"),
        )
    ),
    *(
        Case(
            name=f"seals.{column} altered, its digest with it",
            statements=[
                SEAL.format(change=f"{column} = {value}", no=2),
                RESEAL.format(no=2),
            ],
            seq=6,
            seal_no=2,
            reason=reason,
        )
        for column, value, reason in (
            ("seq_from", "seq_from + 1", "does not continue"),
            ("seq_to", "seq_to + 1", "checkpoint does not"),
            ("seq_to", "seq_to + 2", "frontier does not"),
            ("root", "sha256('x')", "frontier does not"),
            ("previous", "sha256('x')", "does not continue"),
            ("checkpoint", "replace(checkpoint, E'\\n9\\n', E'\\n10\\n')", "checkpoint does not"),
            ("checkpoint", "replace(checkpoint, 'broker', 'brocker')", "checkpoint does not"),
            ("sealed_at", "sealed_at - interval '1 day'", "attestation is not"),
            ("key_id", "'0000000000000000'", "attestation is not"),
        )
    ),
    Case(
        name="seal of another tenant's log, made to fit as well as it can be without the key",
        statements=[
            SEAL.format(change="checkpoint = replace(checkpoint, '/demo', '/other')", no=1),
            RESEAL.format(no=1),
            SEAL.format(
                change="attestation = replace(attestation, split_part(attestation, E'\\n', 3),"
                " encode(digest, 'base64'))",
                no=1,
            ),
        ],
        seq=1,
        seal_no=1,
        reason="checkpoint does not",
    ),
    Case(
        name="seals.attestation replaced by the next one's",
        statements=[
            (
                "UPDATE audit.seals s SET attestation = o.attestation FROM audit.seals o WHERE"
                " s.tenant_id = 'demo' AND o.tenant_id = 'demo' AND s.seal_no = 2 AND o.seal_no = 3"
            )
        ],
        seq=6,
        seal_no=2,
        reason="attestation is not",
    ),
    Case(
        name="seals.attestation with a signature of nothing",
        statements=[SEAL.format(change="attestation = split_part(attestation, '—', 1)", no=2)],
        seq=6,
        seal_no=2,
        reason="not signed by a known key",
        in_sql=False,
    ),
    *(
        Case(
            name=f"seal {no} deleted",
            statements=[f"DELETE FROM audit.seals WHERE tenant_id = 'demo' AND seal_no = {no}"],
            seq=seq,
            seal_no=seal_no,
            reason=reason,
        )
        for no, seq, seal_no, reason in (
            (1, 1, None, "seal 1 is missing"),
            (2, 6, None, "seal 2 is missing"),
            (3, 10, None, "member has no seal"),
        )
    ),
    Case(
        name="two seals exchanged",
        statements=[
            "UPDATE audit.seals SET seal_no = -2 WHERE tenant_id = 'demo' AND seal_no = 2",
            "UPDATE audit.seals SET seal_no = 2 WHERE tenant_id = 'demo' AND seal_no = 3",
            "UPDATE audit.seals SET seal_no = 3 WHERE tenant_id = 'demo' AND seal_no = -2",
        ],
        seq=6,
        seal_no=2,
        reason="seal was altered",
    ),
    Case(
        name="a seal of a log that is not this one",
        statements=[
            "DELETE FROM audit.seals WHERE tenant_id = 'demo' AND seal_no = 1",
            (
                "INSERT INTO audit.seals SELECT (jsonb_populate_record(s,"
                " '{\"tenant_id\": \"demo\"}')).* FROM audit.seals s WHERE tenant_id = 'other'"
                " AND seal_no = 1"
            ),
        ],
        seq=1,
        seal_no=1,
        reason="seal was altered",
    ),
    Case(
        name="seals truncated",
        statements=["TRUNCATE audit.seals"],
        seq=1,
        reason="member has no seal",
    ),
]

KEYS = [
    Case(
        name="key altered",
        statements=["UPDATE audit.keys SET public_key = sha256('x')"],
        seq=1,
        seal_no=1,
        reason="was altered",
        in_python=False,  # it has keys of its own
    ),
    Case(
        name="key deleted",
        statements=["DELETE FROM audit.keys"],
        seq=1,
        seal_no=1,
        reason="is missing",
        in_python=False,  # it has keys of its own
    ),
    Case(
        name="keys truncated",
        statements=["TRUNCATE audit.keys"],
        seq=1,
        seal_no=1,
        reason="is missing",
        in_python=False,  # it has keys of its own
    ),
]
