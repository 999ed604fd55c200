"""A development token issuer: a key in the stack's folder. Trusted by the embedded stack only."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from app.console.links import audience
from app.trust import DEV_ISSUER, EVERY

ISSUER: Final = DEV_ISSUER
KEY_ID: Final = "dev"
LIFE_S: Final = 30 * 86400
LINK_S: Final = 600
PERSON: Final = ("tools", "operator", "auditor", "admin")


class DevIssuer:
    """Makes tokens that an app with `settings()` trusts."""

    def __init__(self, home: Path, *, audience: str) -> None:
        self._home = home
        self._audience = audience
        home.mkdir(parents=True, exist_ok=True)
        if not self.private.exists():
            self._make()

    @property
    def private(self) -> Path:
        """The signing key, PEM."""
        return self._home / "dev-issuer.pem"

    @property
    def jwks(self) -> Path:
        """The public key set."""
        return self._home / "dev-issuer.jwks.json"

    def _make(self) -> None:
        key = Ed25519PrivateKey.generate()
        public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        public |= {"kid": KEY_ID, "alg": "EdDSA", "use": "sig"}
        self.jwks.write_bytes(orjson.dumps({"keys": [public]}))
        self.private.touch(mode=0o600)
        self.private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def setting(self) -> str:
        """The value of MCP_BROKER_ISSUERS."""
        issuer = {
            "issuer": ISSUER,
            "audience": self._audience,
            "jwks_file": str(self.jwks),
            "algorithms": ["EdDSA"],
        }
        return orjson.dumps([issuer]).decode()

    def token(
        self,
        *,
        tenant: str,
        user: str,
        scopes: Sequence[str],
        groups: Sequence[str] = (),
        life_s: float = LIFE_S,
        **claims: Any,
    ) -> str:
        """A signed token; further claims go in as they are and may replace the usual ones."""
        now = time.time()
        body: dict[str, Any] = {
            "iss": ISSUER,
            "aud": self._audience,
            "sub": user,
            "tenant": tenant,
            "groups": list(groups),
            "scope": " ".join(scopes),
            "iat": int(now),
            "exp": int(now + life_s),
        }
        if "results:write" in scopes:
            body["tenants"] = [EVERY]  # one EDA serves all tenants of the stack
        key = serialization.load_pem_private_key(self.private.read_bytes(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
        return jwt.encode(body | claims, key, algorithm="EdDSA", headers={"kid": KEY_ID})


def console_link(
    issuer: DevIssuer,
    url: str,
    *,
    tenant: str,
    user: str,
    scopes: Sequence[str] | None = None,
    groups: Sequence[str] = (),
    life_s: float = LINK_S,
) -> str:
    """A link that signs a person in at the console of the app at `url`, once."""
    token = issuer.token(
        tenant=tenant,
        user=user,
        scopes=scopes or PERSON,
        groups=groups,
        life_s=life_s,
        aud=audience(url),
        jti=str(uuid4()),
    )
    return f"{url}/console/sign-in/link?token={token}"
