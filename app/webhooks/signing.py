"""Secrets of webhooks: how they are made, kept sealed, and sign (Standard Webhooks 1.0.0).

A secret is kept as AES-256-GCM leaves it, by a key that is derived from a setting. Who reads the
database, or a dump of it, cannot sign; who also has the setting can.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
NONCE_BYTES: Final = 12
NAME_BYTES: Final = 8
"""Of a key's name before what it has sealed, so that the right one opens it."""
PURPOSE: Final = b"mcpbroker webhook secrets v1"


class BadSecretError(ValueError):
    """It is no secret of Standard Webhooks."""


class SealedByAnotherError(Exception):
    """No key that is set opens it."""


class Sealer:
    """Seals and opens secrets: the first key seals, all open."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._keys: dict[bytes, AESGCM] = {}
        for one in keys:
            derived = HKDF(SHA256(), 32, None, PURPOSE).derive(one.get_secret_value().encode())
            name = hashlib.sha256(PURPOSE + derived).digest()[:NAME_BYTES]
            self._keys.setdefault(name, AESGCM(derived))

    def __bool__(self) -> bool:
        """Whether there is a key."""
        return bool(self._keys)

    def seal(self, secret: bytes, *, tenant_id: str, endpoint_id: UUID) -> bytes:
        """A secret for this endpoint's row, and no other."""
        name, key = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(NONCE_BYTES)
        return name + nonce + key.encrypt(nonce, secret, _bound(tenant_id, endpoint_id))

    def open(self, sealed: bytes, *, tenant_id: str, endpoint_id: UUID) -> bytes:
        """The secret of a row.

        Raises:
            SealedByAnotherError: its key is not set, or it was sealed for another row.
        """
        name, nonce = sealed[:NAME_BYTES], sealed[NAME_BYTES : NAME_BYTES + NONCE_BYTES]
        key = self._keys.get(name)
        if key is None:
            raise SealedByAnotherError
        try:
            rest = sealed[NAME_BYTES + NONCE_BYTES :]
            return key.decrypt(nonce, rest, _bound(tenant_id, endpoint_id))
        except InvalidTag as error:
            raise SealedByAnotherError from error


def _bound(tenant_id: str, endpoint_id: UUID) -> bytes:
    return f"{tenant_id}/{endpoint_id}".encode()


def new_secret() -> bytes:
    """A secret of the broker's own making."""
    return secrets.token_bytes(SECRET_BYTES)


def shown(secret: bytes) -> str:
    """A secret as receivers take it."""
    return PREFIX + base64.b64encode(secret).decode()


def parsed(text: str) -> bytes:
    """A secret that somebody else made.

    Raises:
        BadSecretError: it is not `whsec_` and the base64 of 24 to 64 bytes.
    """
    if not text.startswith(PREFIX):
        raise BadSecretError
    try:
        found = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSecretError from error
    if not SECRET_BYTES_MIN <= len(found) <= SECRET_BYTES_MAX:
        raise BadSecretError
    return found


def signature(message_id: str, at: int, body: bytes, by: Iterable[bytes]) -> str:
    """The `webhook-signature` header: one signature for each secret, the newest first."""
    said = f"{message_id}.{at}.".encode() + body
    made = (hmac.digest(secret, said, "sha256") for secret in by)
    return " ".join(f"v1,{base64.b64encode(one).decode()}" for one in made)
