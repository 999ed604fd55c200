"""Secrets of OpenBao or HashiCorp Vault (KV v2), for `vault:mount/path#field`.

The executor logs in by itself, renews its token before it ends, and logs in anew when the server
does not know it any more.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import hvac
import requests
from hvac.exceptions import Forbidden, InvalidPath, VaultError

from adapters.contract import credential_unavailable
from adapters.vault_server import VaultServer

FRESH_S: Final = 30.0
"""How long a secret that was read counts; a changed one is seen then."""
KEPT_MAX: Final = 2000
TIMEOUT_S: Final = 10
RENEW_AT: Final = 2 / 3
"""Of a token's life."""


class Vault:
    """One server's secrets; kept for some seconds, so that not each call asks for its own."""

    def __init__(self, server: VaultServer, look_up: Callable[[str], Awaitable[str]]) -> None:
        self._server = server
        self._look_up = look_up
        self._one_at_a_time = asyncio.Lock()
        self._session = requests.Session()
        self._session.trust_env = False
        self._client: hvac.Client | None = None
        self._renew_at = 0.0
        self._ends_at = 0.0
        self._renewable = False
        self._kept = OrderedDict[str, tuple[float, Mapping[str, Any]]]()

    async def value(self, rest: str) -> str:
        """Of `mount/path#field`.

        Raises:
            CallFailedError: there is none, or the server does not give it.
        """
        place, _, field = rest.partition("#")
        mount, _, path = place.partition("/")
        if not (mount and path and field) or ".." in path.split("/"):
            raise credential_unavailable("A credential of a vault is vault:mount/path#field.")
        async with self._one_at_a_time:
            found = (await self._secret(mount, path)).get(field)
        if not isinstance(found, str):
            raise credential_unavailable("The vault's secret has no such field, or it is no text.")
        return found

    async def close(self) -> None:
        """Close the connections; the token ends by itself."""
        self._session.close()

    async def _secret(self, mount: str, path: str) -> Mapping[str, Any]:
        key = f"{mount}/{path}"
        at, kept = self._kept.get(key, (0.0, {}))
        if kept and time.monotonic() - at < FRESH_S:
            return kept
        try:
            found = await self._read(mount, path)
        except InvalidPath:
            raise credential_unavailable("The vault has no such secret.") from None
        except (VaultError, requests.RequestException) as error:
            words = f"The vault does not give the secret ({type(error).__name__})."
            raise credential_unavailable(words) from None
        self._kept[key] = (time.monotonic(), found)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return found

    async def _read(self, mount: str, path: str) -> Mapping[str, Any]:
        for again in (True, False):
            client = await self._logged_in()
            try:
                said = await asyncio.to_thread(
                    client.secrets.kv.v2.read_secret_version,
                    path=path,
                    mount_point=mount,
                    raise_on_deleted_version=True,
                )
            except Forbidden:
                if not again:
                    raise
                self._client = None  # the token may have ended, or have been revoked
            else:
                return said["data"]["data"]
        raise AssertionError("unreachable")

    async def _logged_in(self) -> hvac.Client:
        now = time.monotonic()
        if self._client is not None and now >= self._renew_at:
            await self._renew(self._client)
        if self._client is None:
            self._client = await self._log_in()
        return self._client

    async def _renew(self, client: hvac.Client) -> None:
        """Renew the token while it lives; what cannot be renewed is logged in anew."""
        if not self._renewable or time.monotonic() >= self._ends_at:
            self._client = None
            return
        try:
            said = await asyncio.to_thread(client.auth.token.renew_self)
            self._note(said["auth"]["lease_duration"], renewable=said["auth"]["renewable"])
        except (VaultError, requests.RequestException):
            self._client = None

    async def _log_in(self) -> hvac.Client:
        server = self._server
        client = hvac.Client(
            url=server.address,
            namespace=server.namespace,
            verify=server.ca_file or True,
            timeout=TIMEOUT_S,
            session=self._session,
        )
        # Given to the session, as hvac's argument counts only where it makes the session itself.
        self._session.verify = server.ca_file or True
        if server.token is not None:
            client.token = await self._look_up(server.token)
            said = await asyncio.to_thread(client.auth.token.lookup_self)
            ttl_s, renewable = said["data"]["ttl"], said["data"].get("renewable", False)
        elif server.role_id is not None and server.secret_id is not None:
            names = [await self._look_up(one) for one in (server.role_id, server.secret_id)]
            mount = server.auth_mount or "approle"
            said = await asyncio.to_thread(client.auth.approle.login, *names, mount_point=mount)
            ttl_s, renewable = said["auth"]["lease_duration"], said["auth"]["renewable"]
        else:
            assert server.role is not None
            assert server.jwt is not None
            jwt = await self._look_up(server.jwt)
            mount = server.auth_mount or "jwt"
            said = await asyncio.to_thread(
                client.auth.jwt.jwt_login, server.role, jwt, path=mount, use_token=True
            )
            ttl_s, renewable = said["auth"]["lease_duration"], said["auth"]["renewable"]
        self._note(ttl_s, renewable=renewable)
        return client

    def _note(self, ttl_s: float, *, renewable: bool) -> None:
        now = time.monotonic()
        life_s = ttl_s or float("inf")  # 0: it does not end
        self._renew_at, self._ends_at = now + life_s * RENEW_AT, now + life_s
        self._renewable = renewable
