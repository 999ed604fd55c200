"""Checkpoints and signed notes, as C2SP's tlog-checkpoint and signed-note have them."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ED25519_NOTE: Final = b"\x01"
SIGNATURES_MAX: Final = 64


def origin_of(log: str, tenant_id: str) -> str:
    """The origin line, and the key name, of one tenant's log."""
    assert log, "the log has a name"
    assert not set(log) & set("+ \t\r\n"), "a signed note's key name has no space and no plus"
    return f"{log}/{tenant_id}"


def checkpoint_text(*, origin: str, size: int, root: bytes) -> str:
    """The text of a C2SP tlog-checkpoint."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


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
