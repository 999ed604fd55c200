"""A seal: the tree's head after a batch of events, chained to the seal before it."""

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.audit.event import canonical, micros
from app.audit.tree import HASH_BYTES

SEAL_TAG: Final = "mcpbroker.audit.seal.v1"
SEAL_TAG_2: Final = "mcpbroker.audit.seal.v2"
SEAL_TAG_3: Final = "mcpbroker.audit.seal.v3"
NOTHING: Final = bytes(HASH_BYTES)
"""What the first seal has for the seal before it."""


class Kind(StrEnum):
    """What a seal says."""

    EVENTS = "events"
    RETIREMENT = "retirement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """A seal without its attestation, which signs its digest."""

    tenant_id: str
    seal_no: int
    kind: Kind
    seq_from: int
    seq_to: int
    retired_before: datetime | None
    root: bytes
    frontier: bytes
    previous: bytes
    key_id: str
    sealed_at: datetime
    checkpoint: str
    request: str | None = None  # of a retirement: the signed request that it follows
    retired_digest: bytes | None = None  # and which members it lets go: `rulings.Chain`
    transactions: bytes | None = None  # of events: `transactions_digest`

    @property
    def digest(self) -> bytes:
        """What chains the seals and what the attestation signs: SHA-256 over every field."""
        fields = (
            self.tenant_id,
            str(self.seal_no),
            str(self.kind),
            str(self.seq_from),
            str(self.seq_to),
            None if self.retired_before is None else str(micros(self.retired_before)),
            self.root.hex(),
            self.frontier.hex(),
            self.previous.hex(),
            self.key_id,
            str(micros(self.sealed_at)),
            self.checkpoint,
        )
        gone = None if self.retired_digest is None else self.retired_digest.hex()
        if self.transactions is not None:
            more = (self.request, gone, self.transactions.hex())
            return hashlib.sha256(canonical(SEAL_TAG_3, (*fields, *more))).digest()
        if self.request is None and self.retired_digest is None:
            return hashlib.sha256(canonical(SEAL_TAG, fields)).digest()
        return hashlib.sha256(canonical(SEAL_TAG_2, (*fields, self.request, gone))).digest()


def transactions_digest(xids: Iterable[int]) -> bytes:
    """SHA-256 over the transaction ids of a seal's events, in their order, each with a comma.

    An event's leaf does not hold its transaction, which it is ordered by.
    """
    return hashlib.sha256("".join(f"{xid}," for xid in xids).encode()).digest()


def attestation_text(*, tenant_id: str, seal_no: int, digest: bytes) -> str:
    """The text of a seal's own signed note; its second line keeps it from being a checkpoint."""
    return f"{SEAL_TAG}\n{tenant_id}/{seal_no}\n{base64.b64encode(digest).decode()}\n"
