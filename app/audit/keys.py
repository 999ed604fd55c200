"""The keys that seal the audit trail: from a PEM file, or behind a key service.

Rotation needs no ceremony: for a while, seal with both keys (a note takes several signatures), let
auditors pin the new one, then take the old one out of the settings.
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.audit import note
from app.audit.request import Asked, text_of

PEM_MARK = "-----BEGIN "


class Signer(Protocol):
    """Signs with an Ed25519 key that it keeps; a key service implements it with one remote call."""

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of RFC 8032."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature. Called several at a time, never inside a transaction."""
        ...


class FileSigner:
    """A private key in memory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public_key = key.public_key().public_bytes_raw()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PKCS #8 PEM file.

        Raises:
            ValueError: it holds no Ed25519 private key.
        """
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} holds another kind of key than Ed25519")  # noqa: TRY004 a file's content is no type error
        return cls(key)

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of RFC 8032."""
        return self._public_key

    async def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return self._key.sign(message)


def signer(spec: str) -> Signer:
    """A path of a PEM file, or `package.module:function` of a plug-in that makes a Signer.

    Raises:
        ValueError: there is no such plug-in.
    """
    module, found, name = spec.partition(":")
    if found and not Path(spec).exists():
        try:
            make = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"there is neither a file nor a plug-in {spec}: {error}") from error
        made: Signer = make()
        return made
    return FileSigner.load(Path(spec))


async def sign_request(asked: Asked, signer: Signer, *, log: str) -> str:
    """A retention officer's request as a signed note."""
    text = text_of(asked, log=log)
    signature = await signer.sign(text.encode())
    return note.signed_note(text, {signer.public_key: signature}, name=log)


def generate(private: Path, public: Path) -> bytes:
    """Make a key pair in two PEM files, the private one for its owner's eyes; the public key.

    Raises:
        FileExistsError: a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    private.touch(mode=0o600, exist_ok=False)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return key.public_key().public_bytes_raw()


def pinned(paths: Iterable[Path]) -> dict[str, bytes]:
    """The public keys of PEM files, by key id.

    Raises:
        ValueError: a file holds none, or one that is not Ed25519.
    """
    return {note.key_id_of(key): key for path in paths for key in load_public(path)}


def load_public(path: Path) -> tuple[bytes, ...]:
    """Every public key of a PEM file, in order: what an auditor pins.

    Raises:
        ValueError: it holds none, or one that is not Ed25519.
    """
    blocks = path.read_text(encoding="ascii").split(PEM_MARK)[1:]
    keys = [serialization.load_pem_public_key((PEM_MARK + block).encode()) for block in blocks]
    found = [key.public_bytes_raw() for key in keys if isinstance(key, Ed25519PublicKey)]
    if not found or len(found) != len(keys):
        raise ValueError(f"{path} holds no Ed25519 public key, or one that is not")
    return tuple(found)
