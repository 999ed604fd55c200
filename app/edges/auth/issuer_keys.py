"""An issuer's public keys: read from a file, an address or its discovery document, and kept.

Keys that are there are used while newer ones are read behind the callers' backs, and on when the
issuer does not answer. A token that names no known key makes its caller wait for the next reading;
readings are bounded in number, time and size, whatever callers send.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httpx
import jwt
import orjson
from pydantic import BaseModel, ConfigDict

from app.config import Settings
from app.errors import IssuerUnavailableError
from app.trust import Issuer, is_safe

logger = logging.getLogger(__name__)

FETCH_S: Final = 5.0
"""For discovery and keys together."""

BYTES_MAX: Final = 1 << 20
KEYS_MAX: Final = 100
WAITING_MAX: Final = 100
"""Callers that wait for the next reading of an issuer's keys; further ones get 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A public key that may have signed a token."""

    kid: str | None
    algorithm: str | None  # the only one it is for, if its set says so
    public: Any


class Said(BaseModel):
    """What a JSON Web Key says of itself (RFC 7517, 4)."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str = "sig"
    key_ops: list[str] = ["verify"]


class KeySet:
    """The keys of one issuer."""

    def __init__(self, issuer: Issuer, settings: Settings) -> None:
        self._issuer = issuer
        self._kept_s = settings.issuer_keys_kept_s
        self._refetch_s = settings.issuer_refetch_s
        self._stale_max_s = settings.issuer_keys_stale_max_s
        self._keys: tuple[Key, ...] = ()
        self._read_at = float("-inf")  # the last that went well
        self._tried_at = float("-inf")
        self._began_at = float("-inf")
        self._waiting = 0
        self._reading: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> tuple[Key, ...]:
        """The keys of that id, all where the token names none; none if the issuer has no such.

        Raises:
            IssuerUnavailableError: the keys are not known, and the issuer cannot be asked.
        """
        now = time.monotonic()
        found = self._named(kid)
        if found and now - self._read_at <= self._stale_max_s:
            if now - self._read_at > self._kept_s:
                self._start()
            # Nobody has asked for a while: what an issuer has withdrawn since must not pass once
            # more. One that was asked and does not answer holds nobody up.
            if now - self._read_at > 2 * self._kept_s and self._tried_at <= self._read_at:
                before = self._read_at
                await self._renewed(lambda: self._read_at > before)
                return self._named(kid)
            return found

        def known() -> bool:
            age_s = time.monotonic() - self._read_at
            return bool(self._named(kid)) and age_s <= self._stale_max_s

        await self.renew(known)
        return self._named(kid)

    async def renew(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Have the keys read by a reading that begins from now on, or until it is enough.

        A key may have been rotated in since the last reading, so who shows one that is not known
        waits until the next may begin.

        Raises:
            IssuerUnavailableError: they cannot be read, or too many wait.
        """
        if not await self._renewed(enough):
            raise self._unavailable()

    async def _renewed(self, enough: Callable[[], bool]) -> bool:
        asked = time.monotonic()
        while not enough():
            if self._reading is not None and not self._reading.done():
                # Shielded: one caller that goes away takes the others' reading with it otherwise.
                await asyncio.shield(self._reading)
                continue
            failed = self._tried_at > self._read_at
            if self._began_at >= asked:
                return not failed
            wait_s = self._tried_at + self._refetch_s - time.monotonic()
            if wait_s <= 0:
                self._start()
                continue
            if failed or self._waiting >= WAITING_MAX:
                return False
            self._waiting += 1
            try:
                await asyncio.sleep(wait_s)
            finally:
                self._waiting -= 1
        return True

    def _named(self, kid: str | None) -> tuple[Key, ...]:
        return tuple(key for key in self._keys if kid is None or key.kid == kid)

    def _unavailable(self) -> IssuerUnavailableError:
        return IssuerUnavailableError(
            f"The keys of token issuer {self._issuer.issuer} cannot be read now, so this token"
            " cannot be checked. Nothing was started; try again.",
            retry_after_s=max(1, round(self._refetch_s)),
        )

    def _start(self) -> None:
        """Begin a reading, unless one runs or the last is too young."""
        running = self._reading is not None and not self._reading.done()
        if not running and time.monotonic() - self._tried_at >= self._refetch_s:
            self._began_at = time.monotonic()
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                keys = usable(await self._document())
        except (OSError, TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            logger.warning(
                "keys of an issuer not read: %r", error, extra={"issuer": self._issuer.issuer}
            )
            self._tried_at = time.monotonic()
            return
        self._keys = keys
        self._read_at = self._tried_at = time.monotonic()

    async def _document(self) -> Mapping[str, Any]:
        if self._issuer.jwks_file is not None:
            return as_object(self._issuer.jwks_file.read_bytes())
        context = ssl.create_default_context(
            cafile=None if self._issuer.ca_file is None else str(self._issuer.ca_file)
        )
        # A redirect is not followed: it could leave https, or this issuer.
        async with httpx.AsyncClient(verify=context, timeout=FETCH_S) as client:
            return await get(client, self._issuer.jwks_uri or await self._discovered(client))

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        """Where the keys are (OpenID Connect Discovery 1.0, section 4)."""
        base = self._issuer.issuer.rstrip("/")
        document = await get(client, f"{base}/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer.issuer:
            raise ValueError("the discovery document is of another issuer")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str) or not is_safe(uri):
            raise ValueError(f"the discovery document's jwks_uri is not https: {uri!r}")
        return uri


async def get(client: httpx.AsyncClient, url: str) -> Mapping[str, Any]:
    """A JSON object over HTTP, of bounded size."""
    body = bytearray()
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != HTTPStatus.OK:
            raise ValueError(f"{url} answered {answer.status_code}")
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > BYTES_MAX:
                raise ValueError(f"{url} answered more than {BYTES_MAX} bytes")
    return as_object(bytes(body))


def as_object(body: bytes) -> Mapping[str, Any]:
    """Parse a JSON object."""
    found = orjson.loads(body)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 one class for what is malformed
    return found


def usable(document: Mapping[str, Any]) -> tuple[Key, ...]:
    """The public signature keys of a JWK set (RFC 7517); what is anything else is passed over.

    Raises:
        ValueError: there is none.
    """
    listed = document.get("keys")
    found: list[Key] = []
    for one in listed[:KEYS_MAX] if isinstance(listed, list) else ():
        try:
            key = Said.model_validate(one)
            # A secret, or a private key that anyone can read, proves nothing about who signs.
            open_secret = key.kty == "oct" or "d" in one
            if open_secret or key.use != "sig" or "verify" not in key.key_ops:
                continue
            public = jwt.PyJWK(one).key
        except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError):
            continue  # the last is PyJWT's word on a key of algorithm `none`
        found.append(Key(kid=key.kid, algorithm=key.alg, public=public))
    if not found:
        raise ValueError("the key set has no public signature key")
    return tuple(found)
