"""Who is asking: bearer tokens (JWT, RFC 9068 style) of the issuers that the settings trust."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx
import jwt
import orjson
from pydantic import TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from app.config import Issuer, Settings
from app.envelope import Tenant, Text
from app.errors import ForbiddenError, NotAuthenticatedError
from app.policy import Identity

logger = logging.getLogger(__name__)

KEYS_KEPT_S: Final = 300.0
REFETCH_S: Final = 10.0
"""At most this often are keys asked for because a token names one that is not known."""

TENANT: Final = TypeAdapter[str](Tenant)
USER: Final = TypeAdapter[str](Text)

CALL: Final = "tools"
RESULTS: Final = "results:write"
OPERATE: Final = "operator"
SCOPES: Final = (CALL, RESULTS, OPERATE)


class KeySet:
    """An issuer's public keys, from a file, an address or its discovery document."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._at = float("-inf")
        self._loading = asyncio.Lock()

    async def key(self, kid: str | None) -> jwt.PyJWK | None:
        """The key of that id; the only key where the token names none."""
        known = kid in self._keys or (kid is None and len(self._keys) == 1)
        if time.monotonic() - self._at > (KEYS_KEPT_S if known else REFETCH_S):
            async with self._loading:
                if time.monotonic() - self._at > REFETCH_S:
                    await self._load()
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _load(self) -> None:
        self._at = time.monotonic()
        try:
            if self._issuer.jwks_file is not None:
                found = orjson.loads(self._issuer.jwks_file.read_bytes())
            else:
                async with httpx.AsyncClient(timeout=5) as client:
                    found = orjson.loads((await client.get(await self._address(client))).content)
            keys = jwt.PyJWKSet.from_dict(found).keys
        except (OSError, httpx.HTTPError, ValueError, KeyError, jwt.PyJWTError) as error:
            # The keys that we have stay good: an issuer that is away locks nobody out.
            logger.warning("keys of an issuer not read: %r", error)
            return
        self._keys = {key.key_id: key for key in keys}

    async def _address(self, client: httpx.AsyncClient) -> str:
        if self._issuer.jwks_uri is not None:
            return self._issuer.jwks_uri
        base = self._issuer.issuer.rstrip("/")
        document = orjson.loads(
            (await client.get(f"{base}/.well-known/openid-configuration")).content
        )
        if document["issuer"] != self._issuer.issuer:
            raise ValueError("the discovery document is of another issuer")
        return document["jwks_uri"]


class Verifier:
    """Turns a token into an identity, or says why not."""

    def __init__(self, settings: Settings) -> None:
        self._issuers = {issuer.issuer: (issuer, KeySet(issuer)) for issuer in settings.issuers}
        self._skew_s = settings.clock_skew_s

    async def verify(self, token: str) -> Identity:
        """Check signature, issuer, audience and times; map the claims.

        Raises:
            NotAuthenticatedError: the token is not valid here.
        """
        try:
            header = jwt.get_unverified_header(token)
            unverified = jwt.decode(token, options={"verify_signature": False})
            issuer, keys = self._issuers[unverified["iss"]]
            key = await keys.key(header.get("kid"))
            if key is None:
                raise NotAuthenticatedError("The token's key is not one of its issuer's.")
            claims = jwt.decode(
                token,
                key=key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=self._skew_s,
                options={"require": ["exp", "iss", "aud"]},
            )
            return identity(claims, issuer)
        except (jwt.PyJWTError, KeyError, TypeError, ValidationError) as error:
            # Which check failed is for the log; the caller learns that the token is not good.
            logger.info("token refused: %s", error)
            raise NotAuthenticatedError("The bearer token is not valid here.") from error


def identity(claims: Mapping[str, Any], issuer: Issuer) -> Identity:
    """Map verified claims by the issuer's configuration.

    Raises:
        KeyError, TypeError, pydantic.ValidationError: a claim is missing or not of its shape.
    """
    scopes = claims.get(issuer.scope_claim, "")
    tenant_id = TENANT.validate_python(claims[issuer.tenant_claim])
    if issuer.tenants is not None and tenant_id not in issuer.tenants:
        raise KeyError(f"the issuer does not speak for tenant {tenant_id}")
    bound, tools = claims.get("tenants"), claims.get("tools")
    return Identity(
        tenant_id=tenant_id,
        user_id=USER.validate_python(claims[issuer.user_claim]),
        client_id=str(claims.get("client_id") or claims.get("azp") or claims[issuer.user_claim]),
        groups=frozenset(claims.get(issuer.groups_claim, ())),
        scopes=frozenset(scopes.split() if isinstance(scopes, str) else scopes),
        tenants=None if bound is None else frozenset(bound),
        tools=None if tools is None else tuple(tools),
    )


def bearer(connection: HTTPConnection) -> str:
    """The token of the Authorization header (RFC 6750, 2.1).

    Raises:
        NotAuthenticatedError: there is none.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticatedError("Send 'Authorization: Bearer <token>'.")
    return token.strip()


def need(who: Identity, scope: str) -> None:
    """Check a scope.

    Raises:
        ForbiddenError: the token lacks it.
    """
    if scope not in who.scopes:
        raise ForbiddenError(f"This needs a token with scope {scope!r}.", scope=scope)
