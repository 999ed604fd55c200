"""The Merkle tree is the one that RFC 6962 defines, and notes are those of C2SP."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from app.audit import event as audit
from app.audit import note as audit_note
from app.audit import seal, tree
from app.audit.event import Event, leaf_of
from app.audit.tree import Tree

LEAVES = st.lists(st.binary(min_size=32, max_size=32), max_size=70)


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word (leaves are hashed already)."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path_of(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1, word for word."""
    if len(leaves) <= 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path_of(m, leaves[:k]), mth(leaves[k:])]
    return [*path_of(m - k, leaves[k:]), mth(leaves[:k])]


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << ((n - 1).bit_length() - 1)


@given(LEAVES)
def test_the_root_is_the_merkle_tree_hash(leaves: list[bytes]) -> None:
    assert Tree().grown(leaves).root == mth(leaves)


@given(LEAVES, st.data())
def test_a_tree_grown_in_parts_through_its_packed_frontier_is_the_same(
    leaves: list[bytes], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(leaves)))
    first = Tree().grown(leaves[:at])
    again = Tree.of(first.size, first.packed).grown(leaves[at:])
    assert again == Tree().grown(leaves)
    assert len(again.frontier) == len(leaves).bit_count()


@given(LEAVES.filter(bool), st.data())
def test_an_inclusion_path_proves_its_own_leaf_at_its_own_place_only(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    size, root, path = len(leaves), mth(leaves), path_of(index, leaves)
    assert tree.included(leaves[index], index=index, size=size, path=path, root=root)
    other = hashlib.sha256(leaves[index]).digest()
    assert not tree.included(other, index=index, size=size, path=path, root=root)
    assert not tree.included(leaves[index], index=size, size=size, path=path, root=root)
    if path:
        assert not tree.included(leaves[index], index=index, size=size, path=path[1:], root=root)
        assert not tree.included(
            leaves[index], index=index, size=size, path=[*path, other], root=root
        )


def test_a_frontier_of_another_size_is_refused() -> None:
    try:
        Tree.of(3, bytes(32))
    except ValueError:
        return
    raise AssertionError("three leaves have two perfect subtrees")


def event(**changes: object) -> Event:
    fields: dict[str, object] = {
        "event_id": UUID(int=7),
        "occurred_at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "tenant_id": "demo",
        "type": "command.accepted",
        "actor": "user:ada",
        "user_id": None,
        "command_id": None,
        "saga_id": None,
        "tool": None,
        "method": None,
        "attempt": None,
        "state_from": None,
        "state_to": None,
        "fingerprint": None,
        "body": "{}",
    }
    return Event(**{**fields, **changes})  # pyright: ignore[reportArgumentType]


TEXT = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.tuples(TEXT, TEXT, TEXT), st.tuples(TEXT, TEXT, TEXT))
def test_no_two_events_have_the_same_bytes(
    one: tuple[str | None, ...], two: tuple[str | None, ...]
) -> None:
    names = ("user_id", "tool", "method")
    first = leaf_of(event(**dict(zip(names, one, strict=True))))
    second = leaf_of(event(**dict(zip(names, two, strict=True))))
    assert (first == second) == (one == two)


@given(st.integers(-(10**15), 10**16))
def test_an_instant_is_counted_to_the_microsecond(count: int) -> None:
    assert audit.micros(audit.EPOCH + timedelta(microseconds=count)) == count


def test_a_note_that_go_has_signed_is_understood() -> None:
    """The example of golang.org/x/mod/sumdb/note."""
    verifier = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    public = base64.b64decode(verifier.split("+", 2)[2])[1:]
    note = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n\n\u2014 PeterNeumann "
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng"
        "otpRZb6KE6RyyBwJnAM=\n"
    )
    assert audit_note.verifier_key("PeterNeumann", public) == verifier
    assert audit_note.signers_of(note, {"k": public}) == {"k"}
    assert audit_note.signers_of(note.replace("answer", "cause"), {"k": public}) == frozenset()


def note_by(*keys: Ed25519PrivateKey, text: str = "log/demo\n1\nAAAA\n") -> str:
    signatures = {key.public_key().public_bytes_raw(): key.sign(text.encode()) for key in keys}
    return audit_note.signed_note(text, signatures, name="log/demo")


def test_a_witness_may_add_a_line_and_a_false_line_of_a_known_key_spoils_the_note() -> None:
    mine, witness, stranger = (Ed25519PrivateKey.generate() for _ in range(3))
    keys = {
        "mine": mine.public_key().public_bytes_raw(),
        "witness": witness.public_key().public_bytes_raw(),
    }
    assert audit_note.signers_of(note_by(mine, witness), keys) == {"mine", "witness"}
    assert audit_note.signers_of(note_by(mine, stranger), keys) == {"mine"}
    assert audit_note.signers_of(note_by(stranger), keys) == frozenset()
    text = "log/demo\n1\nAAAA\n"
    forged = audit_note.signed_note(
        text, {keys["mine"]: stranger.sign(text.encode())}, name="log/demo"
    )
    assert audit_note.signers_of(forged, keys) == frozenset()
    witnessed = note_by(witness) + forged.rpartition("\n\n")[2]
    assert audit_note.signers_of(witnessed, keys) == frozenset()


def test_a_checkpoint_is_never_taken_for_an_attestation() -> None:
    checkpoint = audit_note.checkpoint_text(origin=seal.SEAL_TAG, size=1, root=bytes(32))
    attestation = seal.attestation_text(tenant_id="1", seal_no=1, digest=bytes(32))
    assert checkpoint != attestation
