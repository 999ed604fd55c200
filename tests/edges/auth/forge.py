"""What an attacker writes: tokens of any header, claims and signature; and trusted signers."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.trust import Issuer
from tests.conftest import AUDIENCE

Private = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(header: Any, claims: Any, signature: bytes = b"no signature") -> str:
    """A token whose parts are as given: objects, or JSON text that is taken as it is."""
    texts = [part if isinstance(part, str) else json.dumps(part) for part in (header, claims)]
    return ".".join(
        [*(b64(text.encode("utf-8", "surrogatepass")) for text in texts), b64(signature)]
    )


class Signer:
    """An issuer with one key."""

    def __init__(self, name: str, algorithm: str) -> None:
        self.name, self.algorithm, self.kid = name, algorithm, f"kid of {name}"
        self.key = make(algorithm)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        usual = {"iss": self.name, "aud": AUDIENCE, "sub": "ada", "tenant": "demo"}
        made = usual | {"scope": "tools operator", "iat": now, "exp": now + 600} | changes
        return {name: value for name, value in made.items() if value is not ...}

    def token(self, *, key: Private | None = None, header: Any = None, **changes: Any) -> str:
        return self.sign(json.dumps(self.claims(**changes)), key=key, header=header)

    def sign(self, claims: str, *, key: Private | None = None, header: Any = None) -> str:
        """Sign a text as claims, whatever it is."""
        head = {"alg": self.algorithm, "kid": self.kid} | (header or {})
        text = json.dumps({name: value for name, value in head.items() if value is not ...})
        body = f"{b64(text.encode())}.{b64(claims.encode('utf-8', 'surrogatepass'))}"
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        signature = algorithm.sign(body.encode(), key or self.key)
        return f"{body}.{b64(signature)}"

    def jwk(self) -> dict[str, Any]:
        return public_jwk(self.key) | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def trusted(self, folder: Path, **changes: Any) -> Issuer:
        file = folder / f"{self.algorithm}.jwks.json"
        file.write_text(json.dumps({"keys": [self.jwk()]}))
        entry = {"issuer": self.name, "audience": AUDIENCE, "jwks_file": file}
        return Issuer.model_validate(entry | changes)


def make(algorithm: str) -> Private:
    if algorithm.startswith("ES"):
        return generate_ec(SECP256R1())
    if algorithm == "EdDSA":
        return Ed25519PrivateKey.generate()
    return generate_rsa(65537, 2048)


def public_jwk(key: Private) -> dict[str, Any]:
    match key:
        case RSAPrivateKey():
            return RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case Ed25519PrivateKey():
            return OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            return ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
