"""Who is asking: bearer tokens (JWT, RFC 9068 style) of the issuers that the settings trust."""

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import jwt
from pydantic import TypeAdapter

from app.config import Settings
from app.contract import Tenant, Text
from app.edges.auth.issuer_keys import Key, KeySet
from app.errors import NotAuthenticatedError
from app.identity import ERASED, Identity
from app.json_values import loads
from app.trust import EVERY, Issuer

TOKEN_BYTES_MAX: Final = 16 << 10
CLAIM_ITEMS_MAX: Final = 1000
KEYS_TRIED_MAX: Final = 8
"""Of an issuer whose tokens name no key."""
VERIFIED_KEPT_MAX: Final = 10_000

TENANT: Final = TypeAdapter[str](Tenant)
USER: Final = TypeAdapter[str](Text)
BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


class Reason(StrEnum):
    """Why a login failed: for the audit trail and the log, never for the caller."""

    MALFORMED = "malformed"
    UNKNOWN_ISSUER = "unknown_issuer"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    AUDIENCE = "audience"
    CLAIMS = "claims"
    BINDING = "binding"
    CERTIFICATE = "certificate"
    PROOF = "proof"


REASONS: Final[Mapping[type[jwt.PyJWTError], Reason]] = {
    jwt.InvalidSignatureError: Reason.SIGNATURE,
    jwt.InvalidAlgorithmError: Reason.ALGORITHM,
    jwt.InvalidKeyError: Reason.SIGNATURE,
    jwt.ExpiredSignatureError: Reason.EXPIRED,
    jwt.ImmatureSignatureError: Reason.NOT_YET_VALID,
    jwt.InvalidAudienceError: Reason.AUDIENCE,
    jwt.MissingRequiredClaimError: Reason.CLAIMS,
    jwt.InvalidIssuerError: Reason.UNKNOWN_ISSUER,
}


class LoginFailedError(NotAuthenticatedError):
    """A credential was shown and is not valid here.

    The caller does not learn why, but for a good token whose time is over: it can get a new one.
    """

    code_of_scheme: str = "invalid_token"
    """The scheme's own word for it (RFC 6750, 3.1; RFC 9449, 12.2)."""

    def __init__(
        self,
        reason: Reason,
        *,
        issuer: str | None = None,
        why: object = "",
        scheme: str = "Bearer",
    ) -> None:
        what = "has expired; get a new one" if reason is Reason.EXPIRED else "is not valid here"
        shown = "token" if reason is Reason.EXPIRED else "token or certificate"
        super().__init__(f"The bearer {shown} {what}.")
        self.reason = reason
        self.issuer = issuer
        self.why = why
        self.scheme = scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A token that was found good, and what must still be so for it to be good again."""

    identity: Identity
    issuer: str
    kid: str | None
    keys: tuple[Key, ...]  # those that could have signed it
    expires: float  # Unix time, the skew included


class Verifier:
    """Turns a token into an identity, or says why not."""

    def __init__(self, settings: Settings) -> None:
        self._issuers = {
            issuer.issuer: (issuer, KeySet(issuer, settings)) for issuer in settings.issuers
        }
        self._skew_s = settings.clock_skew_s
        self._verified: dict[tuple[bytes, bytes | None, str | None], Verified] = {}

    async def verify(
        self, token: str, *, certificate: bytes | None = None, key: str | None = None
    ) -> Identity:
        """Check signature, issuer, audience and times; map the claims.

        `certificate` is the client's, as SHA-256 of its DER form: a token that is bound to one
        (RFC 8705) is good with it only. `key` is the thumbprint of the client's, of which it has
        yet to show a proof (RFC 9449): a token that is bound to one is good with it only, and with
        one no other token is good.

        Raises:
            LoginFailedError: the token is not valid here.
            IssuerUnavailableError: its issuer's keys are not known and cannot be read now.
        """
        # Checking a signature costs more than accepting a call. What was good stays so while its
        # issuer has the same keys and its time is not over; nothing else of the answer can change.
        shown = (hashlib.sha256(token.encode()).digest(), certificate, key)
        known = self._verified.get(shown)
        if known is not None and time.time() < known.expires:
            _, keys = self._issuers[known.issuer]
            if await keys.find(known.kid) == known.keys:
                return known.identity
        verified = await self._verify(token, certificate, key)
        if len(self._verified) >= VERIFIED_KEPT_MAX:
            self._verified.clear()
        self._verified[shown] = verified
        return verified.identity

    async def _verify(self, token: str, certificate: bytes | None, key: str | None) -> Verified:
        header, unverified = parts(token)
        named = unverified.get("iss")
        if not isinstance(named, str) or named not in self._issuers:
            raise LoginFailedError(Reason.UNKNOWN_ISSUER)
        issuer, keys = self._issuers[named]
        try:
            self._check_header(header, issuer)
            check_times(unverified)
            claims, signers = await self._claims(token, header, issuer, keys)
            check_binding(claims, certificate, key)
            kid: str | None = header.get("kid")
            return Verified(
                identity=identity(claims, issuer),
                issuer=named,
                kid=kid,
                keys=signers,
                expires=int(claims["exp"]) + self._skew_s,
            )
        except jwt.PyJWTError as error:
            reason = REASONS.get(type(error), Reason.CLAIMS)
            raise LoginFailedError(reason, issuer=named, why=error) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LoginFailedError(Reason.CLAIMS, issuer=named, why=error) from error

    def _check_header(self, header: Mapping[str, Any], issuer: Issuer) -> None:
        # Before any key is looked for: what cannot be good costs no reading of keys.
        if header.get("alg") not in issuer.algorithms:
            raise LoginFailedError(Reason.ALGORITHM, issuer=issuer.issuer)
        if not isinstance(header.get("kid"), str | None):
            raise LoginFailedError(Reason.MALFORMED, issuer=issuer.issuer)
        typ = header.get("typ")
        if issuer.token_type is not None and str(typ).lower() != issuer.token_type.lower():
            raise LoginFailedError(Reason.CLAIMS, issuer=issuer.issuer, why=f"typ {typ!r}")

    async def _claims(
        self, token: str, header: Mapping[str, Any], issuer: Issuer, keys: KeySet
    ) -> tuple[dict[str, Any], tuple[Key, ...]]:
        """The claims, verified by one of these keys of the issuer's."""
        kid: str | None = header.get("kid")
        found = await keys.find(kid)
        try:
            return self._decode(token, header["alg"], issuer, found), found
        except jwt.InvalidSignatureError:
            # Without a key's name only a failure tells that the issuer may have new keys.
            if kid is not None:
                raise
            await keys.renew()
        found = await keys.find(kid)
        return self._decode(token, header["alg"], issuer, found), found

    def _decode(
        self, token: str, algorithm: str, issuer: Issuer, keys: tuple[Key, ...]
    ) -> dict[str, Any]:
        fitting = [key for key in keys if key.algorithm in {None, algorithm}]
        failure: jwt.PyJWTError | None = None
        for key in fitting[:KEYS_TRIED_MAX]:
            try:
                return jwt.decode(
                    token,
                    key=key.public,
                    algorithms=[algorithm],
                    audience=issuer.audience,
                    issuer=issuer.issuer,
                    leeway=self._skew_s,
                    options={
                        "require": ["exp", "iss", "aud"],
                        "enforce_minimum_key_length": True,
                    },
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError) as error:
                failure = error
            except TypeError as error:  # a key of another kind than the algorithm's
                failure = jwt.InvalidKeyError(str(error))
        if failure is not None:
            raise failure
        raise LoginFailedError(Reason.UNKNOWN_KEY, issuer=issuer.issuer)


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a compact JWS, not verified yet; one text has one reading.

    Raises:
        LoginFailedError: it is none (RFC 7515), too long, or says a thing twice.
    """
    if len(token) > TOKEN_BYTES_MAX:
        raise LoginFailedError(Reason.MALFORMED, why="too long")
    try:
        head, body, signature = token.split(".")
        decoded(signature)
        return strict_object(decoded(head)), strict_object(decoded(body))
    except (ValueError, RecursionError) as error:
        raise LoginFailedError(Reason.MALFORMED, why=error) from error


def decoded(part: str) -> bytes:
    """Decode base64url as JOSE has it: no padding, no other characters (PyJWT refuses spare bits).

    Raises:
        ValueError: it is anything else.
    """
    if BASE64URL.fullmatch(part) is None:
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def strict_object(text: bytes) -> dict[str, Any]:
    """A JSON object as every reader reads it: of two readings one could see another tenant.

    Raises:
        ValueError: it is none, or none that `json_values` takes.
    """
    found = loads(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 one class for what is malformed
    return found  # pyright: ignore[reportUnknownVariableType]


def check_times(claims: Mapping[str, Any]) -> None:
    """Hold dates to numbers (RFC 7519, 2): PyJWT reads texts too, in digits of any script.

    Raises:
        ValueError: one is something else.
    """
    for name in ("exp", "nbf", "iat"):
        if name in claims and (
            isinstance(claims[name], bool) or not isinstance(claims[name], int | float)
        ):
            raise ValueError(f"{name} is no number")


def check_binding(claims: Mapping[str, Any], certificate: bytes | None, key: str | None) -> None:
    """Hold a token that is bound to a key to that key (RFC 7800; RFC 8705, 3.1; RFC 9449, 6).

    Raises:
        LoginFailedError: it was not shown, or the binding is of a kind that is not served.
    """
    bound = claims.get("cnf", {})
    shown = {"jkt": key}
    if certificate is not None:
        shown["x5t#S256"] = base64.urlsafe_b64encode(certificate).rstrip(b"=").decode()
    good = isinstance(bound, dict) and all(
        name in shown and shown[name] == value is not None for name, value in bound.items()
    )
    # A token that is not bound has nothing to prove: by the scheme of those that are, it is none.
    if not good or ("cnf" in claims and not bound) or (key is not None and "jkt" not in bound):
        proving = key is not None or (isinstance(bound, dict) and "jkt" in bound)
        scheme = "DPoP" if proving else "Bearer"
        raise LoginFailedError(Reason.BINDING, issuer=claims["iss"], scheme=scheme)


def identity(claims: Mapping[str, Any], issuer: Issuer) -> Identity:
    """Map verified claims by the issuer's configuration.

    Raises:
        KeyError, ValueError: a claim is missing, not of its shape, or not the issuer's to say.
    """
    tenant_id = tenant_of(claims, issuer)
    user = USER.validate_python(claim(claims, issuer.user_claim), strict=True)
    named = (claim(claims, name) for name in issuer.client_claims)
    client_name = next((one for one in named if isinstance(one, str) and one), None)
    # A user may be called as a client is: only its own claim says that a token is that client's.
    key = user if client_name is None and issuer.user_is_client else client_name
    client = None if key is None else issuer.clients.get(key)
    client_id = client_name or user
    scopes = scopes_of(claims, issuer)
    tenants = strings(claim(claims, issuer.tenants_claim))
    tools = strings(claim(claims, issuer.tools_claim))
    if client is not None:
        scopes = scopes if client.scopes is None else client.scopes
        tenants = tenants if client.tenants is None else client.tenants
        tools = tools if client.tools is None else client.tools
    user_id = USER.validate_python(issuer.user_prefix + user)
    if user_id == ERASED:
        raise ValueError("that name stands for persons whose data was erased")
    return Identity(
        tenant_id=tenant_id,
        user_id=user_id,
        client_id=USER.validate_python(issuer.user_prefix + client_id),
        groups=frozenset(strings(claim(claims, issuer.groups_claim)) or ()),
        scopes=frozenset(scopes),
        tenants=bound_tenants(tenant_id, tenants, issuer.may_speak_for),
        tools=tools,
    )


def tenant_of(claims: Mapping[str, Any], issuer: Issuer) -> str:
    """The token's tenant.

    Raises:
        KeyError, pydantic.ValidationError: there is none, or the issuer may not speak for it.
    """
    if issuer.tenant is not None:
        return issuer.tenant
    claimed = claim(claims, issuer.tenant_claim)
    tenant_id = TENANT.validate_python(
        issuer.tenant_map[claimed] if issuer.tenant_map else claimed, strict=True
    )
    if issuer.tenants is not None and tenant_id not in issuer.tenants:
        raise KeyError(f"the issuer does not speak for tenant {tenant_id}")
    return tenant_id


def scopes_of(claims: Mapping[str, Any], issuer: Issuer) -> tuple[str, ...]:
    """The token's scopes: a list, or one string of them with spaces between (RFC 8693, 4.2)."""
    claimed = claim(claims, issuer.scope_claim)
    found = tuple(claimed.split()) if isinstance(claimed, str) else strings(claimed) or ()
    if issuer.scope_map:
        found = tuple(scope for one in found for scope in issuer.scope_map.get(one, ()))
    if issuer.scopes is not None:
        found = tuple(one for one in found if one in issuer.scopes)
    return found


def bound_tenants(
    tenant_id: str, claimed: tuple[str, ...] | None, allowed: frozenset[str] | None
) -> frozenset[str] | None:
    """Whose commands an adapter may speak for; None is everyone's. Unsaid, its own tenant's."""
    if claimed is None:
        return frozenset({tenant_id})
    if EVERY in claimed:
        return allowed
    return frozenset(claimed) if allowed is None else frozenset(claimed) & allowed


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim's value: by its name, or where a JSON Pointer (RFC 6901) leads; None if missing."""
    if not name.startswith("/"):
        return claims.get(name)
    found: Any = claims
    for part in name[1:].split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found


def strings(value: Any) -> tuple[str, ...] | None:
    """A list of strings, or one as a list of one; None if there is none.

    Raises:
        ValueError: it is anything else, or too long.
    """
    if value is None:
        return None
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > CLAIM_ITEMS_MAX:
        raise ValueError("a claim is not a list of strings")
    if not all(isinstance(item, str) for item in items):
        raise ValueError("a claim is not a list of strings")
    return tuple(items)
