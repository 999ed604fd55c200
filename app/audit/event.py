"""The audit trail's arithmetic: leaves, the Merkle tree of RFC 6962, seals and signed notes.

A tenant's events are the leaves of one growing tree. A seal is the tree's head after a batch: its
checkpoint is a C2SP tlog-checkpoint of the whole log, and its digest chains it to the seal before.
Everything here is also computed in SQL (migrations 0005 and 0008), so that neither side is taken at its word.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Self
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LEAF_TAG: Final = "mcpbroker.audit.v1"
LEAF_TAG_2: Final = "mcpbroker.audit.v2"
PERSONAL_TAG: Final = "mcpbroker.audit.personal.v1"
SEAL_TAG: Final = "mcpbroker.audit.seal.v1"
HASH_BYTES: Final = 32
NOTHING: Final = bytes(HASH_BYTES)
"""What the first seal has for the seal before it."""

ERASED: Final = "[erased]"
"""What an erasure leaves of a person's name in `actor`, behind its kind (`user:`)."""

ERASURE: Final = "person.erased"
"""The type of the event that records an erasure."""

MACHINES: Final = ("adapter:", "relay:", "db:")
"""Actors whose whole name stays; `db:` is who works on the database itself."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
ED25519_NOTE: Final = b"\x01"
SIGNATURES_MAX: Final = 64


class Kind(StrEnum):
    """What a seal says."""

    EVENTS = "events"
    RETIREMENT = "retirement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An audit event's content: exactly what its leaf is computed from."""

    event_id: UUID
    occurred_at: datetime
    tenant_id: str
    type: str
    actor: str
    user_id: str | None
    command_id: UUID | None
    saga_id: UUID | None
    tool: str | None
    method: str | None
    attempt: int | None
    state_from: str | None
    state_to: str | None
    fingerprint: bytes | None
    body: str  # the JSON text as it was written, byte for byte
    salt: bytes | None = None  # hides what the leaf holds of a person; none in version 1
    commitment: bytes | None = None  # all that is left of it after an erasure
    erased_by: UUID | None = None  # the event that records the erasure


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A Merkle tree that can grow: how many leaves, and its perfect subtrees, largest first."""

    size: int = 0
    frontier: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, size: int, packed: bytes) -> Self:
        """The tree that `packed` came from.

        Raises:
            ValueError: a tree of that size has another number of perfect subtrees.
        """
        if size < 0 or len(packed) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"a frontier of {len(packed)} bytes does not fit {size} leaves")
        parts = range(0, len(packed), HASH_BYTES)
        return cls(size=size, frontier=tuple(packed[at : at + HASH_BYTES] for at in parts))

    @property
    def packed(self) -> bytes:
        """The frontier as seals keep it."""
        return b"".join(self.frontier)

    @property
    def root(self) -> bytes:
        """The tree's hash, as RFC 6962 section 2.1 defines it."""
        if not self.frontier:
            return hashlib.sha256(b"").digest()
        found = self.frontier[-1]
        for left in reversed(self.frontier[:-1]):
            found = node(left, found)
        return found

    def grown(self, leaves: Iterable[bytes]) -> "Tree":
        """The tree with these leaves appended; costs about one hash a leaf, whatever its size."""
        stack = list(self.frontier)
        size = self.size
        for leaf in leaves:
            top, carry = leaf, size
            while carry & 1:  # two perfect subtrees of one size are one of twice the size
                top = node(stack.pop(), top)
                carry >>= 1
            stack.append(top)
            size += 1
        return Tree(size=size, frontier=tuple(stack))


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
        return hashlib.sha256(canonical(SEAL_TAG, fields)).digest()


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - EPOCH) // timedelta(microseconds=1)


def canonical(tag: str, fields: Iterable[str | None]) -> bytes:
    """Fields as netstrings behind a tag, "-" for NULL: no two lists of fields give the same."""
    parts = [tag.encode()]
    for field in fields:
        if field is None:
            parts.append(b"-")
        else:
            encoded = field.encode()
            parts.append(b"%d:%b" % (len(encoded), encoded))
    return b",".join(parts) + b","


def leaf_of(event: Event) -> bytes:
    """The event's leaf, as the database computes it (`audit.leaf_v2`)."""
    if event.salt is None and event.commitment is None:
        return _leaf_v1(event)
    fields = (
        str(event.event_id),
        str(micros(event.occurred_at)),
        event.tenant_id,
        event.type,
        actor_kind(event.actor),
        None if event.command_id is None else str(event.command_id),
        None if event.saga_id is None else str(event.saga_id),
        event.tool,
        event.method,
        None if event.attempt is None else str(event.attempt),
        event.state_from,
        event.state_to,
        commitment_of(event).hex(),
    )
    return hashlib.sha256(b"\x00" + canonical(LEAF_TAG_2, fields)).digest()


def actor_kind(actor: str) -> str:
    """What of an actor is no person's: a machine's whole name, a person's only up to the colon."""
    if actor.startswith(MACHINES) or ":" not in actor:
        return actor
    return actor.partition(":")[0] + ":"


def commitment_of(event: Event) -> bytes:
    """What the leaf holds of an event's personal fields; it reveals nothing without the salt.

    Of an erased event it is what the erasure left, or nothing where the event is not empty.
    """
    if event.commitment is None:
        fields = (
            None if event.salt is None else event.salt.hex(),
            event.actor,
            event.user_id,
            None if event.fingerprint is None else event.fingerprint.hex(),
            event.body,
        )
        return hashlib.sha256(canonical(PERSONAL_TAG, fields)).digest()
    kind = actor_kind(event.actor)
    empty = (
        event.salt is event.user_id is event.fingerprint is None
        and event.body == "{}"
        and event.actor == (kind + ERASED if kind.endswith(":") else kind)
    )
    return event.commitment if empty else b""


def _leaf_v1(event: Event) -> bytes:
    """The leaf of an event from before there were salts: everything as it is."""
    fields = (
        str(event.event_id),
        str(micros(event.occurred_at)),
        event.tenant_id,
        event.type,
        event.actor,
        event.user_id,
        None if event.command_id is None else str(event.command_id),
        None if event.saga_id is None else str(event.saga_id),
        event.tool,
        event.method,
        None if event.attempt is None else str(event.attempt),
        event.state_from,
        event.state_to,
        None if event.fingerprint is None else event.fingerprint.hex(),
        event.body,
    )
    return hashlib.sha256(b"\x00" + canonical(LEAF_TAG, fields)).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def included(leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the path proves the leaf at an index of the tree (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def origin_of(log: str, tenant_id: str) -> str:
    """The origin line, and the key name, of one tenant's log."""
    assert log, "the log has a name"
    assert not set(log) & set("+ \t\r\n"), "a signed note's key name has no space and no plus"
    return f"{log}/{tenant_id}"


def checkpoint_text(*, origin: str, size: int, root: bytes) -> str:
    """The text of a C2SP tlog-checkpoint."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def attestation_text(*, tenant_id: str, seal_no: int, digest: bytes) -> str:
    """The text of a seal's own signed note; its second line keeps it from being a checkpoint."""
    return f"{SEAL_TAG}\n{tenant_id}/{seal_no}\n{base64.b64encode(digest).decode()}\n"


def key_id_of(public_key: bytes) -> str:
    """How `audit.keys` names a key: by its own hash, so that it cannot be swapped under a name."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def verifier_key(name: str, public_key: bytes) -> str:
    """The key as signed-note tools and witnesses take it."""
    encoded = base64.b64encode(ED25519_NOTE + public_key).decode()
    return f"{name}+{_note_key(name, public_key).hex()}+{encoded}"


def _note_key(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519_NOTE + public_key).digest()[:4]


def signed_note(text: str, signatures: Mapping[bytes, bytes], *, name: str) -> str:
    """A C2SP signed note: the text and a line for each (public key, signature over the text)."""
    assert text.endswith("\n")
    assert signatures
    lines = [
        f"\u2014 {name} {base64.b64encode(_note_key(name, key) + signature).decode()}\n"
        for key, signature in signatures.items()
    ]
    return text + "\n" + "".join(lines)


def note_text(note: str) -> str:
    """What a note's signatures are over; empty where it is not a note."""
    text, found, _ = note.rpartition("\n\n")
    return f"{text}\n" if found else ""


def origin_of_note(note: str) -> str:
    """A checkpoint's first line."""
    return note.partition("\n")[0]


def signers_of(note: str, keys: Mapping[str, bytes]) -> frozenset[str]:
    """Which of the keys (by key id) have signed a note.

    Signatures of unknown keys are passed over, as witnesses may add theirs. A false signature
    under a known key's name makes the whole note worth nothing.
    """
    text, found, block = note.rpartition("\n\n")
    if not found or not block.endswith("\n"):
        return frozenset()
    signers = set[str]()
    for line in block[:-1].split("\n")[:SIGNATURES_MAX]:
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        try:
            signature = base64.b64decode(encoded, validate=True)
        except ValueError:
            return frozenset()
        if dash != "\u2014" or not name:
            return frozenset()
        for key_id, public_key in keys.items():
            if signature[:4] != _note_key(name, public_key):
                continue
            if not signed(f"{text}\n".encode(), signature[4:], public_key):
                return frozenset()
            signers.add(key_id)
    return frozenset(signers)


def signed(message: bytes, signature: bytes, public_key: bytes) -> bool:
    """Whether this is the key's Ed25519 signature over the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
