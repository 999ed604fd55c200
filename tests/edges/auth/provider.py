"""OpenID providers for tests: oidc-provider-mock (on Authlib), over HTTP, with its own keys."""

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from devstack.postgres import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from oidc_provider_mock import User, run_server_in_thread

logging.getLogger("werkzeug").setLevel(logging.ERROR)
CALLBACK = "http://localhost/callback"


class Provider:
    """One issuer; stopped and started again it has the same address and new keys."""

    def __init__(self, audience: str) -> None:
        self.port = free_port()
        self.issuer = f"http://localhost:{self.port}"
        self.audience = audience

    @contextmanager
    def running(self, **users: dict[str, Any]) -> Generator[None]:
        """Serve these users and their claims."""
        known = [User(sub=name, claims=claims) for name, claims in users.items()]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
            with run_server_in_thread(self.port, user_claims=known):
                yield

    async def login(self, user: str) -> str:
        """A token of the user's, by the authorization code flow."""
        async with httpx.AsyncClient() as client:
            found = (await client.get(f"{self.issuer}/.well-known/openid-configuration")).json()
            asked = await client.post(
                found["authorization_endpoint"],
                params={
                    "client_id": self.audience,
                    "redirect_uri": CALLBACK,
                    "response_type": "code",
                    "scope": "openid",
                },
                data={"sub": user},
            )
            code = parse_qs(urlsplit(asked.headers["location"]).query)["code"][0]
            given = await client.post(
                found["token_endpoint"],
                data={
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": CALLBACK,
                },
                auth=(quote(self.audience, safe=""), "any"),
            )
        return given.json()["id_token"]
