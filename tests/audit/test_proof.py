"""A key is not a licence: seals that are signed, and wrong, are found as well."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit import event as audit
from app.audit import note as audit_note
from app.audit import seal as audit_seal
from app.audit.anchoring import Anchor
from app.audit.event import Event
from app.audit.proof import Check, Member, Report, SignedSeal
from app.audit.seal import NOTHING, Kind, Seal
from app.audit.tree import Tree

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
KEYS = {audit_note.key_id_of(PUBLIC): PUBLIC}
NAME = "log/demo"
AT = datetime(2026, 1, 1, tzinfo=UTC)
Line = SignedSeal | Member


def note(text: str, key: Ed25519PrivateKey = KEY) -> str:
    public = key.public_key().public_bytes_raw()
    return audit_note.signed_note(text, {public: key.sign(text.encode())}, name=NAME)


def sign(seal: Seal) -> SignedSeal:
    text = audit_seal.attestation_text(
        tenant_id=seal.tenant_id, seal_no=seal.seal_no, digest=seal.digest
    )
    return SignedSeal(seal=seal, digest=seal.digest, attestation=note(text))


def checkpoint(size: int, root: bytes, origin: str = NAME) -> str:
    return note(audit_note.checkpoint_text(origin=origin, size=size, root=root))


def member(seq: int) -> Member:
    event = Event(
        event_id=UUID(int=seq),
        occurred_at=AT,
        tenant_id="demo",
        type="x",
        actor="x",
        user_id=None,
        command_id=None,
        saga_id=None,
        tool=None,
        method=None,
        attempt=seq,
        state_from=None,
        state_to=None,
        fingerprint=None,
        body="{}",
    )
    leaf = audit.leaf_of(event)
    return Member(seq=seq, event_id=event.event_id, occurred_at=AT, leaf=leaf, event=event)


def log(*, change: Callable[[Seal], Seal] = lambda seal: seal, at: int = 2) -> list[Line]:
    """Three signed seals of two events each, one of them changed before it was signed."""
    lines: list[Line] = []
    tree, previous = Tree(), NOTHING
    for number in (1, 2, 3):
        members = [member(tree.size + 1), member(tree.size + 2)]
        tree = tree.grown(one.leaf for one in members)
        seal = Seal(
            tenant_id="demo",
            seal_no=number,
            kind=Kind.EVENTS,
            seq_from=tree.size - 1,
            seq_to=tree.size,
            retired_before=None,
            root=tree.root,
            frontier=tree.packed,
            previous=previous,
            key_id=next(iter(KEYS)),
            sealed_at=AT,
            checkpoint=checkpoint(tree.size, tree.root),
        )
        signed = sign(change(seal) if number == at else seal)
        previous = signed.digest
        lines += [signed, *members]
    return lines


def check(lines: list[Line], *anchors: Anchor) -> Report:
    made = Check("demo", keys=KEYS, anchors=anchors)
    for line in lines:
        made.add(line)
    return made.report()


def test_a_log_that_is_right_is_right() -> None:
    report = check(log())
    assert (report.fault, report.events, report.seals, report.size) == (None, 6, 3, 6)


WRONG: dict[str, tuple[Callable[[Seal], Seal], str]] = {
    "root": (lambda seal: replace(seal, root=NOTHING), "frontier does not give its root"),
    "frontier": (lambda seal: replace(seal, frontier=b""), "frontier does not fit"),
    "root and frontier of other events": (
        lambda seal: replace(
            seal,
            root=NOTHING,
            frontier=NOTHING,
            checkpoint=checkpoint(seal.seq_to, NOTHING),
        ),
        "one of 3 to 4",
    ),
    "checkpoint of another root": (
        lambda seal: replace(seal, checkpoint=checkpoint(seal.seq_to, NOTHING)),
        "checkpoint does not",
    ),
    "checkpoint of another size": (
        lambda seal: replace(seal, checkpoint=checkpoint(9, seal.root)),
        "checkpoint does not",
    ),
    "kind": (lambda seal: replace(seal, kind=Kind.RETIREMENT), "that its kind does not have"),
    "tenant": (lambda seal: replace(seal, tenant_id="other"), "another log"),
    "origin of another log": (
        lambda seal: replace(
            seal, checkpoint=checkpoint(seal.seq_to, seal.root, origin="log/other")
        ),
        "another log",
    ),
    "changed origin": (
        lambda seal: replace(
            seal, checkpoint=checkpoint(seal.seq_to, seal.root, origin="new/demo")
        ),
        "changes its origin",
    ),
    "number": (lambda seal: replace(seal, seal_no=7), "seal 2 is missing"),
    "previous": (lambda seal: replace(seal, previous=NOTHING), "does not continue"),
    "start": (lambda seal: replace(seal, seq_from=2), "does not start where"),
    "unsigned checkpoint": (
        lambda seal: replace(
            seal,
            checkpoint=note(audit_note.note_text(seal.checkpoint), Ed25519PrivateKey.generate()),
        ),
        "not signed by a known key",
    ),
}


@pytest.mark.guarantee("audit:tamper-evident")
@pytest.mark.parametrize("name", WRONG)
def test_a_seal_that_the_key_has_signed_must_still_be_right(name: str) -> None:
    change, reason = WRONG[name]
    fault = check(log(change=change)).fault
    assert fault is not None
    assert reason in fault.reason
    assert fault.seq == 3


def anchor_of(line: SignedSeal) -> Anchor:
    return Anchor(
        tenant_id="demo",
        seal_no=line.seal.seal_no,
        digest=line.digest,
        attestation=line.attestation,
    )


def test_an_anchor_counts_if_a_known_key_has_signed_just_that() -> None:
    lines = log()
    first = lines[0]
    assert isinstance(first, SignedSeal)
    good = anchor_of(first)
    text = audit_seal.attestation_text(tenant_id="demo", seal_no=5, digest=NOTHING)
    stranger = note(text, Ed25519PrivateKey.generate())
    false = [
        replace(good, seal_no=5),
        replace(good, digest=NOTHING),
        replace(good, seal_no=5, digest=NOTHING, attestation=stranger),
    ]
    report = check(lines, good, good, replace(good, tenant_id="other"), *false)
    assert (report.fault, report.anchors, report.anchors_unsigned) == (None, 1, 3)


def test_two_anchors_of_one_number_are_a_fork_whatever_the_log_says() -> None:
    right, forked = log(), log(change=lambda seal: replace(seal, sealed_at=datetime.now(UTC)))
    one, two = right[3], forked[3]
    assert isinstance(one, SignedSeal)
    assert isinstance(two, SignedSeal)
    fault = check(right, anchor_of(one), anchor_of(two)).fault
    assert fault is not None
    assert "two signed seals" in fault.reason
    assert fault.seal_no == 2


def test_a_member_out_of_its_place_is_found() -> None:
    lines = log()
    for wrong, reason in (
        ([lines[1], *lines], "member has no seal"),
        ([*lines, member(7)], "member has no seal"),
        ([*lines[:2], *lines[3:]], "member is missing"),
        ([*lines[:2], member(1), *lines[3:]], "what stands there is named"),
    ):
        fault = check(wrong).fault
        assert fault is not None
        assert reason in fault.reason
