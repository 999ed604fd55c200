"""Checks a tenant's log from its seals and members alone: no database function is believed.

Pure. `broker audit verify` feeds it from the database, `verify-bundle` from a file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.audit import event as audit
from app.audit import note as audit_note
from app.audit import seal as audit_seal
from app.audit import tree
from app.audit.anchoring import FORK, Anchor, Anchors
from app.audit.event import Event
from app.audit.request import retirement_fault
from app.audit.rulings import Chain, Erasures, Holds, Restores
from app.audit.seal import NOTHING, Kind, Seal
from app.audit.tree import Tree

SKEW: Final = timedelta(minutes=1)
"""How far clocks of a database and its successor may differ."""

LATE: Final = timedelta(minutes=2)
"""An event that is older at its seal came late, or bears a time that is not its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedSeal:
    """A seal as it is stored; the digest is what the row says, not what it should be."""

    seal: Seal
    digest: bytes
    attestation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A leaf in its place, and its event, unless that was retired."""

    seq: int
    event_id: UUID
    occurred_at: datetime
    leaf: bytes
    event: Event | None
    xid: int | None = None  # the transaction that wrote it, if known


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first place where the log is not what was sealed."""

    reason: str
    seal_no: int | None = None
    seq: int | None = None
    event_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check has found."""

    fault: Fault | None
    seals: int
    events: int
    size: int
    root: bytes
    retired: int  # of the events: gone, as a signed retirement said they may be
    retired_before: datetime | None
    erased: int  # of the events: without what they held of a person
    late: int  # of the events: sealed long after the time that they bear
    out_of_time: int  # of the events: over a minute before the one before them
    unshown: tuple[str, ...]  # what this much of the log, or these keys, cannot show
    anchors: int  # compared
    given_up: int  # of the anchors: of pasts that signed restores have given up
    anchors_unsigned: int  # passed over: no known key has signed them
    signed_by: tuple[str, ...]


class Check:
    """Takes a log from its start, or from a base seal, to its end, in order."""

    def __init__(
        self,
        tenant_id: str,
        *,
        keys: Mapping[str, bytes],
        anchors: Iterable[Anchor] = (),
        pinned: bool = True,
        retention_keys: Mapping[str, bytes] | None = None,
        kept_s: float = 0,
    ) -> None:
        """`pinned`: whether the keys are the reader's own, or what the log brought itself.

        `retention_keys` are those of officers whose requests let something go; without them what
        is gone or erased is told as not shown. No retirement of what is younger than `kept_s`
        counts, whoever has signed for it.
        """
        self._tenant_id = tenant_id
        self._keys = keys
        self._retention_keys = retention_keys
        self._kept_s = kept_s
        self._granted: SignedSeal | None = None
        self._granted_passed = False
        self._chain = Chain()
        self._holds = Holds()
        self._late = self._out_of_time = 0
        self._last_at: datetime | None = None
        self._anchors = Anchors(tenant_id, anchors, keys=keys, pinned=pinned)
        self._tree = Tree()
        self._head: SignedSeal | None = None
        self._started = False
        self._first_of_head: Member | None = None
        self._xids: list[int | None] = []  # of the last seal's members
        self._seals = self._events = self._gone = 0
        self._erasures = Erasures(tenant_id=tenant_id, keys=retention_keys)
        self._restores = Restores(tenant_id=tenant_id, keys=retention_keys)
        self._part = False
        self._signed_by = set[str]()
        self._fault: Fault | None = None

    @property
    def log(self) -> str | None:
        """The broker's name, as the log's last seal has it."""
        return None if self._head is None else self._log_of(self._head.seal)

    def grant(self, found: SignedSeal) -> None:
        """Before all else: the seal by which events are gone, which must prove itself."""
        assert not self._started
        seal = found.seal
        fault = self._fault or self._unlike(found) or self._unsigned(found) or self._unasked(seal)
        if fault is None and seal.tenant_id != self._tenant_id:
            fault = Fault(reason="retirement is of another log", seal_no=seal.seal_no)
        self._fault = fault
        self._granted = found

    def start_at(self, base: SignedSeal) -> None:
        """Begin behind this seal: its signature stands for everything before it."""
        assert not self._started
        seal = base.seal
        self._fault = self._fault or self._unlike(base) or self._unsigned(base)
        if self._fault is None:
            self._tree = Tree.of(seal.seq_to, seal.frontier)
        self._head = base
        self._xids = [None]  # not shown
        self._part = True

    def add(self, line: SignedSeal | Member | Fault) -> None:
        """The next seal, or the next of the last seal's members; nothing counts after a fault."""
        self._started = True
        if self._fault is not None:
            return
        match line:
            case SignedSeal():
                self._fault = self._seal(line)
            case Member():
                self._fault = self._member(line)
            case Fault():  # a row that is none
                self._fault = line

    def report(self) -> Report:
        """What was found, the log's end included."""
        fault = self._fault or self._open() or self._unretired()
        unshown = list[str]()
        if self._gone and (self._part or self._retention_keys is None):
            unshown.append(f"that {self._gone} events may be gone")
        misdeed = self._erasures.misdeed()
        if self._erasures.count and (self._part or self._retention_keys is None):
            unshown.append(f"that {self._erasures.count} events may have been erased")
        fault = self._unanchored(fault, unshown)
        if fault is None and misdeed is not None and not self._part:
            fault = Fault(reason=misdeed.reason, event_id=misdeed.event_id)
        granted = None if self._granted is None else self._granted.seal.retired_before
        return Report(
            fault=fault,
            seals=self._seals,
            events=self._events,
            size=self._tree.size,
            root=self._tree.root,
            retired=self._gone,
            retired_before=granted,
            erased=self._erasures.count,
            late=self._late,
            out_of_time=self._out_of_time,
            unshown=tuple(unshown),
            anchors=self._anchors.compared,
            given_up=self._anchors.given_up,
            anchors_unsigned=self._anchors.unsigned,
            signed_by=tuple(sorted(self._signed_by)),
        )

    def _seal(self, line: SignedSeal) -> Fault | None:
        fault = self._open() or self._unlike(line) or self._misplaced(line) or self._unsigned(line)
        if fault is not None:
            return fault
        self._head = line
        self._first_of_head = None
        self._xids = []
        self._seals += 1
        seal = line.seal
        if self._granted is not None and seal.seal_no == self._granted.seal.seal_no:
            self._granted_passed = True
            if line.digest != self._granted.digest:
                return Fault(reason=FORK, seal_no=seal.seal_no)
        if seal.request is None or seal.retired_before is None:
            return None
        if self._holds.keeps(seal.retired_before):
            return Fault(reason="events were retired under a legal hold", seal_no=seal.seal_no)
        return self._unasked(seal)

    def _unasked(self, seal: Seal) -> Fault | None:
        """A retirement that nobody outside the database has asked for, or for too much."""
        assert seal.retired_before is not None
        reason = retirement_fault(
            seal.request,
            log=self._log_of(seal),
            keys=self._retention_keys,
            before=seal.retired_before,
            at=seal.sealed_at,
            kept_s=self._kept_s,
        )
        if reason is None:
            return None
        return Fault(reason=f"retirement does not count: {reason}", seal_no=seal.seal_no)

    def _log_of(self, seal: Seal) -> str:
        return audit_note.origin_of_note(seal.checkpoint).removesuffix(f"/{self._tenant_id}")

    def _unlike(self, line: SignedSeal) -> Fault | None:
        """A seal that is not what it says, in itself."""
        seal = line.seal
        origin = audit_note.origin_of_note(seal.checkpoint)
        checkpoint = audit_note.checkpoint_text(origin=origin, size=seal.seq_to, root=seal.root)
        attestation = audit_seal.attestation_text(
            tenant_id=seal.tenant_id, seal_no=seal.seal_no, digest=line.digest
        )
        count = seal.seq_to - seal.seq_from + 1
        if seal.digest != line.digest:
            reason = "seal was altered: its fields do not give its digest"
        elif len(seal.frontier) != tree.HASH_BYTES * seal.seq_to.bit_count():
            reason = "seal was altered: its frontier does not fit its size"
        elif Tree.of(seal.seq_to, seal.frontier).root != seal.root:
            reason = "seal was altered: its frontier does not give its root"
        elif audit_note.note_text(seal.checkpoint) != checkpoint:
            reason = "checkpoint does not say what its seal says"
        elif audit_note.note_text(line.attestation) != attestation:
            reason = "attestation is not over the digest of its seal"
        elif (seal.kind is Kind.EVENTS) != (count > 0) or count < 0:
            reason = "seal has a size that its kind does not have"
        else:
            return None
        return Fault(reason=reason, seal_no=seal.seal_no, seq=self._tree.size + 1)

    def _misplaced(self, line: SignedSeal) -> Fault | None:
        """A seal that does not go on where the log ended."""
        seal = line.seal
        before = None if self._head is None else self._head.seal
        number = 1 if before is None else before.seal_no + 1
        origin = audit_note.origin_of_note(seal.checkpoint)
        if seal.tenant_id != self._tenant_id or not origin.endswith(f"/{self._tenant_id}"):
            reason = "seal is of another log"
        elif seal.seal_no != number:
            reason = f"seal {number} is missing"
        elif seal.previous != (NOTHING if self._head is None else self._head.digest):
            reason = "seal does not continue the seal before it"
        elif seal.seq_from != self._tree.size + 1:
            reason = "seal does not start where the seal before it ends"
        elif before is not None and origin != audit_note.origin_of_note(before.checkpoint):
            reason = "log changes its origin"
        else:
            return None
        return Fault(reason=reason, seal_no=number, seq=self._tree.size + 1)

    def _unsigned(self, line: SignedSeal) -> Fault | None:
        """A seal without a known key's signatures; its anchors are told of it."""
        seal = line.seal
        signers = audit_note.signers_of(line.attestation, self._keys)
        self._signed_by |= signers
        self._anchors.see(seal.seal_no, line.digest, seq=self._tree.size + 1)
        if signers and audit_note.signers_of(seal.checkpoint, self._keys):
            return None
        reason = f"seal is not signed by a known key; it names {seal.key_id}"
        return Fault(reason=reason, seal_no=seal.seal_no, seq=self._tree.size + 1)

    def _member(self, line: Member) -> Fault | None:
        seal = None if self._head is None else self._head.seal
        reason = None
        if seal is None or line.seq > seal.seq_to or line.seq < seal.seq_from:
            reason = "member has no seal: the seal was deleted, or the member was inserted"
        elif line.seq != self._tree.size + 1:
            reason = f"member {self._tree.size + 1} is missing; what stands there is named"
        elif line.event is None:
            if not self._lets_go(line):
                reason = "event is gone: it was deleted, or its time, tenant or member was altered"
        elif (line.event.event_id, line.event.occurred_at) != (line.event_id, line.occurred_at):
            reason = "member and event are not of one another"
        elif audit.leaf_of(line.event) != line.leaf:
            reason = "event was altered: its fields do not give the leaf that was sealed"
        elif (line.event.erased_by is None) != (line.event.commitment is None):
            reason = "event was altered: it names an erasure that it has not had, or none"
        elif line.occurred_at > seal.sealed_at + SKEW:
            reason = "event bears a time after its seal"
        if reason is not None:
            no = None if seal is None else seal.seal_no
            return Fault(reason=reason, seal_no=no, seq=line.seq, event_id=line.event_id)
        assert seal is not None
        self._see(line, seal)
        self._first_of_head = self._first_of_head or line
        self._xids.append(None if line.event is None else line.xid)
        self._tree = self._tree.grown((line.leaf,))
        self._events += 1
        return None

    def _lets_go(self, line: Member) -> bool:
        """Whether the retirement is of this member: of a time before its date, and sealed by then.

        What was sealed behind it is not in its digest.
        """
        if self._granted is None:
            return False
        seal = self._granted.seal
        before = seal.retired_before
        return before is not None and line.occurred_at < before and line.seq <= seal.seq_to

    def _see(self, line: Member, seal: Seal) -> None:
        if self._lets_go(line):
            self._chain.add(seq=line.seq, event_id=line.event_id, occurred_at=line.occurred_at)
        self._late += seal.sealed_at - line.occurred_at > LATE
        if self._last_at is not None:  # an older transaction's, as a rule
            self._out_of_time += line.occurred_at < self._last_at - SKEW
        self._last_at = line.occurred_at
        if line.event is None:
            self._gone += 1
            return
        self._holds.see(line.event)
        log = self._log_of(seal)
        self._erasures.see(line.event, log=log, holds=self._holds)
        self._restores.see(line.event, log=log, seal_no=seal.seal_no)

    def _open(self) -> Fault | None:
        """A last seal that its members do not bear out."""
        if self._head is None:
            return None
        seal = self._head.seal
        if self._tree.size != seal.seq_to:
            reason = "member is missing"
            return Fault(reason=reason, seal_no=seal.seal_no, seq=self._tree.size + 1)
        if self._tree.packed != seal.frontier:
            reason = "an event and its member were altered together, or members moved"
        elif self._other_transactions(seal):
            reason = "event was altered: it bears another transaction"
        else:
            return None
        return Fault(
            reason=f"{reason}: one of {seal.seq_from} to {seal.seq_to}",
            seal_no=seal.seal_no,
            seq=seal.seq_from,
            event_id=None if self._first_of_head is None else self._first_of_head.event_id,
        )

    def _other_transactions(self, seal: Seal) -> bool:
        """Whether members bear others than were sealed, if each is still there to be asked."""
        xids = [xid for xid in self._xids if xid is not None]
        if seal.transactions is None or len(xids) < len(self._xids):
            return False
        return audit_seal.transactions_digest(xids) != seal.transactions

    def _unretired(self) -> Fault | None:
        """A retirement that the log does not have, or that covers other members than it did."""
        if self._granted is None or self._part:
            return None
        no = self._granted.seal.seal_no
        if not self._granted_passed:
            return Fault(reason="the seal of the retirement is not in the log", seal_no=no)
        if self._chain.digest != self._granted.seal.retired_digest:
            return Fault(reason="members are not those that were retired", seal_no=no)
        return None

    def _unanchored(self, fault: Fault | None, unshown: list[str]) -> Fault | None:
        """The first fault, with what was published and the log does not bear out."""
        head = 0 if self._head is None else self._head.seal.seal_no
        odd = self._anchors.odd(self._restores, head=head, size=self._tree.size)
        if self._anchors.given_up and self._restores.unjudged:
            unshown.append(f"that {self._anchors.given_up} published seals may be given up")
        if odd is None or (fault is not None and odd.seal_no >= (fault.seal_no or 0)):
            return fault
        if self._part and odd.seq is None:
            unshown.append("that a past before this part may be given up")
            return fault
        return Fault(reason=odd.reason, seal_no=odd.seal_no, seq=odd.seq)
