"""Proofs of possession (DPoP, RFC 9449): who shows a bound token must hold the key it is bound to.

A proof is a JWT that the client signs for one request: its method, its address, its time and the
token. It counts once, at whichever replica: what a process has not seen itself it asks PostgreSQL
about. Nonces bound how long before a proof was made.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args
from urllib.parse import unquote, urlsplit

import asyncpg
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from starlette.requests import HTTPConnection

from app.config import Settings
from app.edges.auth import store
from app.edges.auth.tokens import LoginFailedError, Reason, check_times, decoded, parts
from app.errors import UnavailableError
from app.postgres.engine import AWAY
from app.trust import Algorithm

ALGORITHMS: Final[tuple[str, ...]] = get_args(Algorithm)
"""Of proofs. By keys that have a public half: whoever checked a symmetrical one could make it."""

HEADER: Final = "dpop"
TYPE: Final = "dpop+jwt"
PROOF_BYTES_MAX: Final = 8 << 10
JTI_MAX: Final = 256
RSA_BITS: Final = (2048, 4096)
MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}
"""What a key's thumbprint is made of (RFC 7638, 3.2; RFC 8037, 2)."""

PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
SEEN_MAX: Final = 500_000
"""Proofs that a process remembers, some 100 bytes each; one more is refused, not an old forgot."""

SEEN_OF_KEY_MAX: Final = 100_000
NONCE_MAC_BYTES: Final = 16
FORGET_S: Final = 10.0
FORGET_MAX: Final = 10_000
"""So many that are over are forgotten at a time: more than a process takes in that time."""


class ProofFailedError(LoginFailedError):
    """The token came without a good proof. What is wrong with it is the caller's own, and told."""

    def __init__(self, why: str, *, code: str = "invalid_dpop_proof", nonce: str = "") -> None:
        super().__init__(Reason.PROOF, why=why, scheme="DPoP")
        self.detail = f"The DPoP proof is not valid: {why}."
        self.code_of_scheme = code
        self.nonce = nonce


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A proof as it came; nothing of it is verified."""

    text: str
    algorithm: str
    key: Mapping[str, str]
    claims: Mapping[str, Any]

    @property
    def thumbprint(self) -> str:
        """The key's, which a token that is bound to it names (RFC 7638)."""
        named = {name: self.key.get(name) for name in MEMBERS[self.key["kty"]]}
        text = json.dumps(named, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
        return encoded(hashlib.sha256(text.encode()).digest())


class Proofs:
    """Judges proofs, and remembers those that it took, for the other replicas too."""

    def __init__(self, settings: Settings, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._forget_at = float("-inf")
        self._base = settings.public_url
        self._age_s = settings.dpop_proof_s
        self._skew_s = settings.clock_skew_s
        self._nonces = Nonces(settings) if settings.dpop_nonce_s else None
        self._kept_s = self._age_s + 2 * self._skew_s
        self._seen = Seen(kept_s=self._kept_s)

    def shown(self, connection: HTTPConnection) -> Proof:
        """The proof of a request, taken apart.

        Raises:
            ProofFailedError: there is not just one, or none that could be good.
        """
        given = connection.headers.getlist(HEADER)
        if len(given) != 1:
            raise ProofFailedError("send one DPoP header")
        if len(given[0]) > PROOF_BYTES_MAX:
            raise ProofFailedError(f"it is over {PROOF_BYTES_MAX} bytes")
        try:
            header, claims = parts(given[0])
        except LoginFailedError as error:
            raise ProofFailedError("it is no JWT") from error
        if str(header.get("typ")).lower() != TYPE:
            raise ProofFailedError(f"typ is not {TYPE}")
        algorithm, key = header.get("alg"), header.get("jwk")
        if algorithm not in ALGORITHMS:
            raise ProofFailedError(f"alg is not one of {' '.join(ALGORITHMS)}")
        if not isinstance(key, dict) or key.get("kty") not in tuple(MEMBERS):
            raise ProofFailedError("jwk is no public key")
        if PRIVATE & set(key):
            raise ProofFailedError("jwk has a private key, which is now known to others")
        if not all(isinstance(key.get(name), str) for name in MEMBERS[key["kty"]]):
            raise ProofFailedError("jwk is no public key")
        return Proof(text=given[0], algorithm=algorithm, key=key, claims=claims)

    async def check(self, proof: Proof, *, token: str, method: str, path: str) -> None:
        """Hold a proof to this request and this token, which is bound to its key; it counts once.

        Raises:
            ProofFailedError: it is not for this request, for now, or not good.
            UnavailableError: more were shown of late than are remembered, or PostgreSQL is away.
        """
        claims = proof.claims
        self._check_signature(proof)
        if claims.get("htm") != method:
            raise ProofFailedError("htm is not this request's method")
        if not same_address(claims.get("htu"), base=self._base, path=path):
            # Not the path: it could have what no header field may.
            raise ProofFailedError(f"htu is not this request's address below {self._base}")
        if claims.get("ath") != encoded(hashlib.sha256(token.encode()).digest()):
            raise ProofFailedError("ath is not the token's SHA-256, in base64url")
        age_s = time.time() - claims["iat"]
        if not -self._skew_s <= age_s <= self._age_s + self._skew_s:
            raise ProofFailedError("iat is not now")
        if self._nonces is not None and not self._nonces.good(claims.get("nonce")):
            raise ProofFailedError(
                "it needs the nonce of this answer", code="use_dpop_nonce", nonce=self._nonces.new()
            )
        jti = claims.get("jti")
        if not isinstance(jti, str) or not 0 < len(jti) <= JTI_MAX:
            raise ProofFailedError(f"jti is no text of 1 to {JTI_MAX} characters")
        seen = not self._seen.first(proof.thumbprint, jti)
        if seen or not await self._take(digest_of(proof.thumbprint, jti)):
            raise ProofFailedError("it was shown before")

    async def _take(self, digest: bytes) -> bool:
        """Whether no replica has taken it; now and then what is over is forgotten."""
        try:
            if time.monotonic() >= self._forget_at:
                self._forget_at = time.monotonic() + FORGET_S
                await store.forget(self._pool, limit=FORGET_MAX)
            return await store.take(self._pool, digest, kept_s=self._kept_s)
        except AWAY as error:
            raise UnavailableError("The DPoP proof cannot be remembered now. Try again.") from error

    def _check_signature(self, proof: Proof) -> None:
        try:
            check_times(proof.claims)
            if "iat" not in proof.claims:
                raise ProofFailedError("it has no iat")
            key = jwt.PyJWK(dict(proof.key), algorithm=proof.algorithm).key
            if isinstance(key, RSAPublicKey) and not RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
                raise ProofFailedError(f"an RSA key has {RSA_BITS[0]} to {RSA_BITS[1]} bits here")
            options: Any = {"verify_aud": False, "verify_iat": False}
            jwt.decode(
                proof.text,
                key=key,
                algorithms=[proof.algorithm],
                leeway=self._skew_s,
                options=options,
            )
        except (jwt.PyJWTError, TypeError, ValueError, OverflowError) as error:
            raise ProofFailedError("its signature or its times are not good") from error


class Seen:
    """Which proofs were taken, for as long as they could be taken again."""

    def __init__(
        self, *, kept_s: float, most: int = SEEN_MAX, of_key: int = SEEN_OF_KEY_MAX
    ) -> None:
        self._kept_s = kept_s
        self._most, self._most_of_key = most, of_key
        self._until: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._of_key: Counter[str] = Counter()

    def first(self, key: str, jti: str) -> bool:
        """Whether this is the first with that `jti` of that key; it is remembered.

        Raises:
            UnavailableError: there is no room, and none that is old enough to be forgotten.
        """
        now = time.monotonic()
        while self._until and next(iter(self._until.values()))[0] <= now:
            _, (_, old) = self._until.popitem(last=False)
            self._of_key[old] -= 1
            if not self._of_key[old]:
                del self._of_key[old]
        one = digest_of(key, jti)
        if one in self._until:
            return False
        if len(self._until) >= self._most or self._of_key[key] >= self._most_of_key:
            raise UnavailableError("Too many DPoP proofs came of late. Try again.")
        self._until[one] = (now + self._kept_s, key)
        self._of_key[key] += 1
        return True


def digest_of(key: str, jti: str) -> bytes:
    """What is remembered of a proof."""
    return hashlib.sha256(f"{key} {jti}".encode("utf-8", "surrogatepass")).digest()[:16]


class Nonces:
    """Nonces that every process of the same secret knows as its own: a time, and a MAC of it."""

    def __init__(self, settings: Settings) -> None:
        self._life_s = settings.dpop_nonce_s
        given = [key.get_secret_value().encode() for key in settings.request_state_keys]
        keys = given or [secrets.token_bytes(32)]
        # Not the keys themselves: they seal elicitations.
        self._keys = [hashlib.sha256(b"mcp-broker DPoP nonce\0" + key).digest() for key in keys]

    def new(self) -> str:
        """A nonce that is good from now on."""
        return self._of(int(time.time()).to_bytes(8, "big"), self._keys[0])

    def good(self, nonce: object) -> bool:
        """Whether it is one of ours, and not too old."""
        try:
            written = decoded(nonce)[:8] if isinstance(nonce, str) else b""
        except ValueError:
            return False
        if len(written) != 8 or not isinstance(nonce, str):  # noqa: PLR2004 a 64-bit time
            return False
        given = nonce.encode()
        if not any(hmac.compare_digest(given, self._of(written, k).encode()) for k in self._keys):
            return False
        return -1 <= time.time() - int.from_bytes(written, "big") <= self._life_s

    def _of(self, written: bytes, key: bytes) -> str:
        return encoded(written + hmac.digest(key, written, "sha256")[:NONCE_MAC_BYTES])


def encoded(data: bytes) -> str:
    """Base64url as JOSE has it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def same_address(htu: object, *, base: str, path: str) -> bool:
    """Whether a proof is for this path here; its query and fragment are not compared (4.3).

    Here is the public URL, whatever the request's Host says: that is the caller's to choose.
    """
    if not isinstance(htu, str):
        return False
    try:
        theirs, ours = urlsplit(htu), urlsplit(base)
        named = unquote(theirs.path).rstrip("/") or "/"
        return (
            theirs.username is None
            and theirs.password is None
            and place(theirs.scheme, theirs.hostname, theirs.port)
            == place(ours.scheme, ours.hostname, ours.port)
            and named == (ours.path.rstrip("/") + path).rstrip("/")
        )
    except ValueError:
        return False


def place(scheme: str, host: str | None, port: int | None) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, the scheme's own where none is named (RFC 3986, 6.2.3)."""
    return scheme, host, port or {"http": 80, "https": 443}.get(scheme)
