"""What the log itself says of its gaps: holds, retirements, erasures, restores, and by whom.

Pure. `app/audit/proof.py` feeds it a log in order; what it does not bear out is tampering.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from app.audit import event as audit
from app.audit import request as audit_request
from app.audit.event import Event, micros
from app.audit.request import Erase, Restore

HOLD_PLACED: Final = "hold.placed"
HOLD_RELEASED: Final = "hold.released"
RESTORED: Final = "log.restored"


class Chain:
    """A rolling hash over the members that a retirement lets go, in order.

    A member's time and id are proved by its event; once that is gone, by this, which is in the
    retirement's seal: else a young event could be dropped and its member be dated back.
    """

    def __init__(self) -> None:
        self._hash = b""

    def add(self, *, seq: int, event_id: UUID, occurred_at: datetime) -> None:
        """The next member."""
        line = f"{seq},{event_id},{micros(occurred_at)},"
        self._hash = hashlib.sha256(self._hash + line.encode()).digest()

    @property
    def digest(self) -> bytes:
        """What the seal keeps."""
        return self._hash or hashlib.sha256(b"").digest()


class Holds:
    """The legal holds that are on at one place of the log."""

    def __init__(self) -> None:
        self._from: dict[str, datetime | None] = {}

    def see(self, event: Event) -> None:
        """The next event."""
        if event.type not in {HOLD_PLACED, HOLD_RELEASED}:
            return
        try:
            body = json.loads(event.body)
            hold = str(body["hold"])
            start = body.get("from")
            if event.type == HOLD_PLACED:
                self._from[hold] = None if start is None else datetime.fromisoformat(start)
            else:
                self._from.pop(hold, None)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # not the words of the database's own verb

    def __bool__(self) -> bool:
        return bool(self._from)

    def keeps(self, before: datetime) -> bool:
        """Whether a hold is on events that are older than this."""
        return any(start is None or start < before for start in self._from.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Misdeed:
    """Events of a month that were erased otherwise than they may be."""

    reason: str
    event_id: UUID


class Erasures:
    """Which events of a log were erased, and what the signed requests for it say."""

    def __init__(self, *, tenant_id: str, keys: Mapping[str, bytes] | None) -> None:
        self.count = 0
        self.unjudged = 0  # their signatures, for want of a key
        self._tenant_id, self._keys = tenant_id, keys
        self._found: dict[tuple[UUID, str], list[UUID]] = {}
        self._said: dict[UUID, Erase] = {}
        self._held: set[UUID] = set()

    def see(self, event: Event, *, log: str, holds: Holds) -> None:
        """The next event, whose leaf is as it was sealed, and the holds that are on there."""
        if event.type == audit.ERASURE:
            self._know(event, log, holds)
        if event.commitment is not None:
            self.count += 1
            month = f"{event.occurred_at.astimezone(UTC):%Y%m}"
            key = (event.erased_by or UUID(int=0), month)
            self._found.setdefault(key, []).append(event.event_id)

    def _know(self, event: Event, log: str, holds: Holds) -> None:
        try:
            note = json.loads(event.body)["request"]
        except (ValueError, KeyError, TypeError):
            return
        found = audit_request.parse(note if isinstance(note, str) else None)
        if found is None or not isinstance(found.asked, Erase):
            return
        asked = found.asked
        if (found.log, asked.tenant_id, asked.id) != (log, self._tenant_id, event.event_id):
            return
        if self._keys is None:
            self.unjudged += 1
        elif not found.signers(self._keys):
            return
        self._said[event.event_id] = asked
        if holds:
            self._held.add(event.event_id)

    def misdeed(self) -> Misdeed | None:
        """The first month of events that is erased otherwise than a signed request says.

        By month, because that is how events retire; a month of which nothing is left has no say.
        """
        for (erasure, month), events in sorted(self._found.items(), key=lambda one: one[0][1]):
            digest = hashlib.sha256(b"".join(one.bytes for one in sorted(events))).hexdigest()
            asked = self._said.get(erasure)
            months_asked = None if asked is None else asked.months.get(month)
            if asked is None:
                reason = "no request that a known retention key has signed says so"
            elif erasure in self._held:
                reason = "a legal hold was on"
            elif months_asked is None or (months_asked.events, months_asked.digest) != (
                len(events),
                digest,
            ):
                reason = "the record of it says otherwise"
            else:
                continue
            return Misdeed(reason=f"events of {month} were erased: {reason}", event_id=min(events))
        return None


class Restores:
    """Where a log says that it went on from an earlier state, by signed requests."""

    def __init__(self, *, tenant_id: str, keys: Mapping[str, bytes] | None) -> None:
        self.unjudged = 0  # their signatures, for want of a key
        self._tenant_id, self._keys = tenant_id, keys
        self._said: list[Restore] = []

    def see(self, event: Event, *, log: str, seal_no: int) -> None:
        """The next event, whose leaf is as it was sealed, in this seal."""
        if event.type != RESTORED:
            return
        try:
            note = json.loads(event.body)["request"]
        except (ValueError, KeyError, TypeError):
            return
        asked = restore_of(note, log=log, tenant_id=self._tenant_id, keys=self._keys)
        if asked is None or asked.id != event.event_id or seal_no <= asked.after_seal:
            return
        self.unjudged += self._keys is None
        self._said.append(asked)

    def give_up(self, seal_no: int, digests: frozenset[bytes]) -> bool:
        """Whether seals of this number with these digests are of pasts that were given up."""
        return gives_up(self._said, seal_no, digests)


def restore_of(
    note: object, *, log: str, tenant_id: str, keys: Mapping[str, bytes] | None
) -> Restore | None:
    """The restore of this log that a note asks for, and one of the keys has signed."""
    found = audit_request.parse(note if isinstance(note, str) else None)
    if found is None or not isinstance(found.asked, Restore):
        return None
    if (found.log, found.asked.tenant_id) != (log, tenant_id):
        return None
    if keys is not None and not found.signers(keys):
        return None
    return found.asked


def gives_up(said: Sequence[Restore], seal_no: int, digests: frozenset[bytes]) -> bool:
    """Whether so many pasts were given up there; each has one seal of a number, its last named."""
    count = sum(
        one.after_seal < seal_no < one.lost_seal
        or (seal_no == one.lost_seal and bytes.fromhex(one.lost_digest) in digests)
        for one in said
    )
    return len(digests) <= count
