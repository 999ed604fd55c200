"""Access tokens of an authorization server: client credentials, and RFC 8693 on a user's behalf.

For a user, what is exchanged is a JWT that the executor signs and that says who called; the
server must trust the key. The user's own token never reaches an executor.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote_plus
from uuid import uuid4

import httpx2
import jwt
import orjson

from adapters import cookies
from adapters.contract import CREDENTIAL_UNAVAILABLE, CallFailedError, Known, credential_unavailable

LookUp = Callable[[str], Awaitable[str]]

EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
TIMEOUT_S: Final = 10.0
EARLIER_S: Final = 30.0
"""Before its end a token is not used any more: the call takes some time too."""
LIFE_S: Final = 300.0
"""Of a token whose server does not say."""
ASSERTED_S: Final = 60
KEPT_MAX: Final = 5000
BYTES_MAX: Final = 64 * 1024
OK: Final = 200


class Tokens:
    """Tokens of one executor, kept until shortly before they end."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None
        self._kept = OrderedDict[str, tuple[float, str]]()
        self._asking = dict[str, asyncio.Lock]()

    async def token(
        self, credential: Mapping[str, Any], tenant: str, user: str | None, look_up: LookUp
    ) -> str:
        """A token for a credential of type oauth2, or for a user of one of type exchange.

        Raises:
            CallFailedError: the server gives none.
        """
        key = key_of(credential, tenant, user)
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                ends_at, kept = self._kept.get(key, (0.0, ""))
                if time.monotonic() < ends_at:
                    self._kept.move_to_end(key)
                    return kept
                form, secret = await self._form(credential, tenant, user, look_up)
                token, life_s = await self._ask(credential, form, secret)
                self._kept[key] = (time.monotonic() + max(0.0, life_s - EARLIER_S), token)
                while len(self._kept) > KEPT_MAX:
                    self._kept.popitem(last=False)
                return token
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    def forget(self, credential: Mapping[str, Any], tenant: str, user: str | None) -> None:
        """Ask for another next time: a target has refused this one."""
        self._kept.pop(key_of(credential, tenant, user), None)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _form(
        self, given: Mapping[str, Any], tenant: str, user: str | None, look_up: LookUp
    ) -> tuple[dict[str, str], str]:
        form = {"grant_type": "client_credentials"}
        if given["type"] == "exchange":
            if user is None:
                words = "The target wants to know the user, and the call has none."
                raise CallFailedError(Known.REFUSED, CREDENTIAL_UNAVAILABLE, words)
            form = {
                "grant_type": EXCHANGE,
                "subject_token": await _assertion(given, tenant, user, look_up),
                "subject_token_type": JWT,
            }
        form |= {name: given[name] for name in ("scope", "audience", "resource") if name in given}
        return form, await look_up(given["client_secret"])

    async def _ask(
        self, given: Mapping[str, Any], form: dict[str, str], secret: str
    ) -> tuple[str, float]:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                timeout=TIMEOUT_S, trust_env=False, cookies=cookies.none()
            )
        auth = httpx2.BasicAuth(_form_quoted(given["client_id"]), _form_quoted(secret))
        try:
            async with self._client.stream(
                "POST", given["token_url"], data=form, auth=auth
            ) as response:
                body = b""
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > BYTES_MAX:
                        break
        except httpx2.HTTPError as error:
            words = f"The authorization server cannot be asked ({type(error).__name__})."
            raise credential_unavailable(words) from None
        try:
            said: Any = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = None
        token = said.get("access_token") if isinstance(said, dict) else None
        if response.status_code != OK or not isinstance(token, str):
            code = said.get("error") if isinstance(said, dict) else None
            raise credential_unavailable(
                f"The authorization server gives no token ({response.status_code}"
                f"{f', {code:.80}' if isinstance(code, str) else ''})."
            )
        life_s = said.get("expires_in", LIFE_S)
        return token, float(life_s) if isinstance(life_s, int | float) else LIFE_S


def key_of(credential: Mapping[str, Any], tenant: str, user: str | None) -> str:
    """One token's name: client credentials are the same for every user."""
    whose = user if credential["type"] == "exchange" else None
    written = [dict(credential), tenant, whose]
    return orjson.dumps(written, option=orjson.OPT_SORT_KEYS).decode()


async def _assertion(given: Mapping[str, Any], tenant: str, user: str, look_up: LookUp) -> str:
    now = int(time.time())
    claims = {
        "iss": given["issuer"],
        "sub": user,
        "tenant": tenant,
        "aud": given["token_url"],
        "iat": now,
        "exp": now + ASSERTED_S,
        "jti": str(uuid4()),
    }
    try:
        return jwt.encode(
            claims, await look_up(given["key"]), algorithm=given.get("algorithm", "EdDSA")
        )
    except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError) as error:
        raise credential_unavailable(
            f"The key to sign with cannot be used ({type(error).__name__})."
        ) from None


def _form_quoted(text: str) -> str:
    """RFC 6749, 2.3.1: both parts of Basic are form-encoded first."""
    return quote_plus(text)
