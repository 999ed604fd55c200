"""The table of DPoP proofs that were taken."""

from typing import Final

from sqlalchemy import Column, Index, LargeBinary, Table

from app.postgres.tables.base import INSTANT, metadata

DPOP_PROOFS: Final = Table(
    "dpop_proofs",  # of all tenants: it has no data of anybody's
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # of the key's thumbprint and the jti
    Column("kept_until", INSTANT, nullable=False),
    Index("ix_dpop_proofs_kept_until", "kept_until"),
    prefixes=["UNLOGGED"],
)
